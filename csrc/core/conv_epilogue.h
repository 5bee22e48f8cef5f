// The epilogue of core/epilogue.h, one element at a time.
#pragma once

#include <cmath>

#include "core/epilogue.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Activations without an elementary function: cheap enough to stand where code is unrolled.
CONVKIT_INLINE bool is_piecewise(Activation a) {
  return a == Activation::kIdentity || a == Activation::kRelu || a == Activation::kLeakyRelu;
}
template <typename A>
CONVKIT_INLINE A activate_piecewise(const Epilogue& e, A v) {
  if (e.activation == Activation::kRelu) return v < A(0) ? A(0) : v;  // keeps NaN
  if (e.activation == Activation::kLeakyRelu) return v < A(0) ? v * static_cast<A>(e.alpha) : v;
  return v;
}

template <typename A>
CONVKIT_INLINE A activate(const Epilogue& e, A v) {
  switch (e.activation) {
    case Activation::kIdentity:
    case Activation::kRelu:
    case Activation::kLeakyRelu: return activate_piecewise(e, v);
    case Activation::kElu: return v < A(0) ? static_cast<A>(e.alpha) * std::expm1(v) : v;
    case Activation::kSigmoid: return A(1) / (A(1) + std::exp(-v));
    case Activation::kTanh: return std::tanh(v);
    case Activation::kSilu: return v / (A(1) + std::exp(-v));
    case Activation::kGelu: return v * A(0.5) * (A(1) + std::erf(v * A(0.70710678118654752440)));
  }
  return v;
}

// What the epilogue makes of `value`, a sum of result channel k; the residual's element lies at `residual`. Integers
// and complex numbers take a bias and a residual only.
template <typename T>
CONVKIT_INLINE accumulate_t<T> apply_epilogue(const Epilogue& e, int64_t k, int64_t residual, accumulate_t<T> value) {
  using A = accumulate_t<T>;
  if constexpr (IsFloating<A>::value) {
    if (e.scale != nullptr) value *= load(static_cast<const T*>(e.scale) + k);
  }
  if (e.bias != nullptr) value = static_cast<A>(value + load(static_cast<const T*>(e.bias) + k));
  if (e.residual.data != nullptr) value = static_cast<A>(value + load(data<T>(e.residual) + residual));
  if constexpr (IsFloating<A>::value) value = activate(e, value);
  return value;
}

// Stores what the epilogue makes of `value` at `at` (n, c, d, h, w) of y.
template <typename T>
CONVKIT_INLINE void store_result(const Epilogue& e, const TensorView& y, const int64_t (&at)[kDims],
                                 accumulate_t<T> value) {
  const int64_t residual = offset(e.residual, at[0], at[kC], at[2], at[3], at[4]);
  store(data<T>(y) + offset(y, at[0], at[kC], at[2], at[3], at[4]), apply_epilogue<T>(e, at[kC], residual, value));
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
