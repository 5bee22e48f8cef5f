#pragma once

#include "torch/binding.h"

namespace convkit::binding {

Tensor max_unpool(const Tensor& x, const Tensor& indices, const Ints& output_size, bool channels_last);
Tensor plane_gather(const Tensor& x, const Tensor& indices, bool channels_last);
Tensor plane_scatter(const Tensor& dy, const Tensor& indices, const Ints& input_size, bool channels_last);
std::tuple<Tensor, Tensor> fractional_max_pool(const Tensor& x, const Tensor& samples, const Ints& kernel_size,
                                               const Ints& output_size, bool with_indices, bool channels_last);

}  // namespace convkit::binding
