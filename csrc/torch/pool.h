#pragma once

#include "torch/binding.h"

namespace convkit::binding {

std::tuple<Tensor, Tensor> max_pool(const Tensor& x, const Ints& packed, bool offsets);
Tensor pool_select(const Tensor& x, const Tensor& offsets, const Ints& packed);
Tensor pool_select_bwd(const Tensor& dy, const Tensor& offsets, const Ints& input_size, const Ints& packed);
Tensor pool_indices(const Tensor& offsets, const Ints& input_size, const Ints& packed);
Tensor avg_pool(const Tensor& x, const Ints& packed);
Tensor avg_pool_bwd(const Tensor& dy, const Ints& input_size, const Ints& packed);

}  // namespace convkit::binding
