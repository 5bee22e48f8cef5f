#pragma once

#include "torch/binding.h"

namespace convkit::binding {

// The mean and biased variance of x's channels.
std::tuple<Tensor, Tensor> bn_stats(const Tensor& x);

Tensor bn_act(const Tensor& x, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
              const OptionalTensor& bias, const OptionalTensor& residual, int64_t activation, double alpha,
              bool channels_last);

// dbias and dweight.
std::tuple<Tensor, Tensor> bn_act_bwd_reduce(const Tensor& dz, const Tensor& x, const Tensor& mean,
                                             const Tensor& invstd, const OptionalTensor& weight,
                                             const OptionalTensor& bias, const OptionalTensor& residual,
                                             int64_t activation, double alpha);

// dx and, where asked for, dresidual; else a tensor without elements in its place.
std::tuple<Tensor, Tensor> bn_act_bwd(const Tensor& dz, const Tensor& x, const Tensor& mean, const Tensor& invstd,
                                      const OptionalTensor& weight, const OptionalTensor& bias,
                                      const OptionalTensor& residual, const OptionalTensor& dbias,
                                      const OptionalTensor& dweight, int64_t count, int64_t activation, double alpha,
                                      bool with_residual, bool channels_last);

// bn_act_bwd with the sums of bn_act_bwd_reduce: dx, dresidual, dbias and dweight.
std::tuple<Tensor, Tensor, Tensor, Tensor> bn_act_grad(const Tensor& dz, const Tensor& x, const Tensor& mean,
                                                       const Tensor& invstd, const OptionalTensor& weight,
                                                       const OptionalTensor& bias, const OptionalTensor& residual,
                                                       int64_t count, int64_t activation, double alpha,
                                                       bool with_residual, bool channels_last);

}  // namespace convkit::binding
