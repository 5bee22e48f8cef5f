#pragma once

#include "torch/binding.h"

namespace convkit::binding {

Tensor conv_fprop(const Tensor& x, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& packed, double alpha);
// y, and the mean and biased variance of its channels.
std::tuple<Tensor, Tensor, Tensor> conv_fprop_stats(const Tensor& x, const Tensor& w, const OptionalTensor& bias,
                                                    const Ints& packed);
Tensor conv_dgrad(const Tensor& dy, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& input_size, const Ints& packed, double alpha);
Tensor conv_wgrad(const Tensor& dy, const Tensor& x, const Ints& kernel_size, const Ints& packed);
Tensor conv_bgrad(const Tensor& dy);

// Number of the algorithm (line of convkit_algorithms(), from 1) that the convolution would run; 0: none.
// op 0: fprop of (x, w); 1: dgrad of (dy, w), size = input size; 2: wgrad of (dy, x), size = kernel size.
int64_t conv_plan(int64_t op, const Tensor& a, const Tensor& b, const Ints& size, const Ints& packed);

}  // namespace convkit::binding
