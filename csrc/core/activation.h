// Activations and their derivatives, one element at a time.
//
// Values follow torch.nn.functional in their special cases too: the derivative of relu at 0 is 0, that of leaky_relu
// its slope, that of elu alpha; NaN stays NaN, and a gradient that a relu stops is 0 whatever it was.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace convkit {

enum class Activation : int64_t { kIdentity, kRelu, kLeakyRelu, kElu, kSigmoid, kTanh, kSilu, kGelu };

inline namespace CONVKIT_ISA {

// Without an elementary function: cheap enough to stand where code is unrolled.
CONVKIT_INLINE bool is_piecewise(Activation a) {
  return a == Activation::kIdentity || a == Activation::kRelu || a == Activation::kLeakyRelu;
}
template <typename A>
CONVKIT_INLINE A activate_piecewise(Activation kind, double alpha, A v) {
  if (kind == Activation::kRelu) return v < A(0) ? A(0) : v;  // keeps NaN
  if (kind == Activation::kLeakyRelu) return v < A(0) ? v * static_cast<A>(alpha) : v;
  return v;
}

template <typename A>
CONVKIT_INLINE A sigmoid(A v) {
  return A(1) / (A(1) + std::exp(-v));
}
// The distribution function of the normal distribution: gelu(v) = v * normal_cdf(v).
template <typename A>
CONVKIT_INLINE A normal_cdf(A v) {
  return A(0.5) * (A(1) + std::erf(v * A(0.70710678118654752440)));
}

template <typename A>
CONVKIT_INLINE A activate(Activation kind, double alpha, A v) {
  switch (kind) {
    case Activation::kIdentity:
    case Activation::kRelu:
    case Activation::kLeakyRelu: return activate_piecewise(kind, alpha, v);
    case Activation::kElu: return v < A(0) ? static_cast<A>(alpha) * std::expm1(v) : v;
    case Activation::kSigmoid: return sigmoid(v);
    case Activation::kTanh: return std::tanh(v);
    case Activation::kSilu: return v / (A(1) + std::exp(-v));
    case Activation::kGelu: return v * normal_cdf(v);
  }
  return v;
}

// dz * act'(v)
template <typename A>
CONVKIT_INLINE A activation_gradient(Activation kind, double alpha, A v, A dz) {
  switch (kind) {
    case Activation::kIdentity: return dz;
    case Activation::kRelu: return v <= A(0) ? A(0) : dz;
    case Activation::kLeakyRelu: return v > A(0) ? dz : dz * static_cast<A>(alpha);
    case Activation::kElu: return v > A(0) ? dz : dz * (static_cast<A>(alpha) * std::exp(v));
    case Activation::kSigmoid: {
      const A y = sigmoid(v);
      return dz * ((A(1) - y) * y);
    }
    case Activation::kTanh: {
      const A y = std::tanh(v);
      return dz * (A(1) - y * y);
    }
    case Activation::kSilu: {
      const A y = sigmoid(v);
      return dz * (y * (A(1) + v * (A(1) - y)));
    }
    case Activation::kGelu: {
      const A density = A(0.39894228040143267794) * std::exp(A(-0.5) * v * v);
      return dz * (normal_cdf(v) + v * density);
    }
  }
  return dz;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
