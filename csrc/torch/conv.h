#pragma once

#include "torch/binding.h"

namespace convkit::binding {

Tensor conv_fprop(const Tensor& x, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& packed, double alpha);
Tensor conv_dgrad(const Tensor& dy, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& input_size, const Ints& packed, double alpha);
Tensor conv_wgrad(const Tensor& dy, const Tensor& x, const Ints& kernel_size, const Ints& packed);
Tensor conv_bgrad(const Tensor& dy);

}  // namespace convkit::binding
