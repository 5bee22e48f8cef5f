// Batch normalisation with what follows it: z = act((x - mean) invstd weight + bias + residual).
//
// Per-channel vectors hold C numbers of x's accumulate type (double for double, else float), side by side. The value
// before the activation is never stored: backwards, it is computed again from x, and with the same roundings.
#pragma once

#include "core/activation.h"
#include "core/tensor_view.h"

namespace convkit {

struct BatchNorm {
  const void *mean, *invstd;
  const void *weight, *bias;  // nullptr: 1 and 0
  TensorView residual;        // x's shape and dtype; data == nullptr: none
  Activation activation;
  double alpha;  // slope of leaky_relu, alpha of elu
};

// What a batch's statistics add to the gradient, summed over `count` elements per channel: those of dz act' and of
// dz act' (x - mean) invstd. Count 0: the statistics were constants, and add nothing; the sums are not read.
struct BatchNormSums {
  const void *dbias, *dweight;
  int64_t count;
};

// Where the gradients go: those of x and, unless its data is nullptr, of the residual; sums as of BatchNormSums.
struct BatchNormGradients {
  TensorView dx, dresidual;
  void *dbias, *dweight;
};

// Where per-channel statistics go: the mean and the variance, which is the mean square of what differs from it.
struct ChannelStatistics {
  void *mean, *var;
};

inline namespace CONVKIT_ISA {

// The dtype of the per-channel vectors of a tensor.
CONVKIT_INLINE DType channel_dtype(DType t) {
  return t == DType::kBFloat16 || t == DType::kFloat16 ? DType::kFloat32 : t;
}

// (x - mean) scale + bias of one channel.
template <typename A>
struct ChannelNorm {
  A mean, invstd, scale, bias;
};

template <typename A>
CONVKIT_INLINE ChannelNorm<A> channel_norm(const BatchNorm& b, int64_t c) {
  const A invstd = static_cast<const A*>(b.invstd)[c];
  return {static_cast<const A*>(b.mean)[c], invstd,
          b.weight == nullptr ? invstd : invstd * static_cast<const A*>(b.weight)[c],
          b.bias == nullptr ? A(0) : static_cast<const A*>(b.bias)[c]};
}

// What dx = scale (g - dbias / count - (x - mean) invstd dweight / count) of one channel adds to g * scale, where g is
// dz act': constant + (x - mean) * slope.
template <typename A>
struct ChannelGradient {
  A constant, slope;
};

template <typename A>
CONVKIT_INLINE ChannelGradient<A> channel_gradient(const ChannelNorm<A>& n, const BatchNormSums& sums, int64_t c) {
  if (sums.count == 0) return {A(0), A(0)};
  const A share = n.scale / static_cast<A>(sums.count);
  return {-share * static_cast<const A*>(sums.dbias)[c], -share * n.invstd * static_cast<const A*>(sums.dweight)[c]};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
