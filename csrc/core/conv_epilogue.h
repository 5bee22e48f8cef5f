// The epilogue of core/epilogue.h, one element at a time.
#pragma once

#include "core/epilogue.h"

namespace convkit {
inline namespace CONVKIT_ISA {

template <typename A>
CONVKIT_INLINE A activate(const Epilogue& e, A v) {
  return activate(e.activation, e.alpha, v);
}
template <typename A>
CONVKIT_INLINE A activate_piecewise(const Epilogue& e, A v) {
  return activate_piecewise(e.activation, e.alpha, v);
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
