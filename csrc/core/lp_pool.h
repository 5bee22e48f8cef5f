// The power of an Lp pooling, and the arithmetic of one window in the order of its definition.
//
// torch: y = (K / count * sum of x^p)^(1/p), K the window's size and count what avg_pool divides by; whatever
//        powers of negative numbers are, so may y be NaN. The gradient is 0 where the sum is.
// norm:  y = (sum of |x|^p)^(1/p) over the elements in the input, by way of |x| / m, m being the largest of them (the
//        smallest for negative p): neither overflow nor underflow loses anything.
#pragma once

#include <math.h>

#include <limits>

#include "core/pool_problem.h"
#include "core/tensor_view.h"

namespace convkit {

struct LpPower {
  double value;          // the exponent, unless
  const void* exponent;  // one element on the kernel's device holds it
  DType dtype;           // of that element, floating
  bool norm;
};

inline namespace CONVKIT_ISA {

CONVKIT_INLINE double lp_exponent(const LpPower& power) {
  if (power.exponent == nullptr) return power.value;
  switch (power.dtype) {
    case DType::kFloat64: return *static_cast<const double*>(power.exponent);
    case DType::kBFloat16: return to_float(*static_cast<const bfloat16*>(power.exponent));
    case DType::kFloat16: return to_float(*static_cast<const float16*>(power.exponent));
    default: return *static_cast<const float*>(power.exponent);
  }
}

CONVKIT_INLINE float raise(float x, float p) { return ::powf(x, p); }
CONVKIT_INLINE double raise(double x, double p) { return ::pow(x, p); }

// norm, one window by its definition; `each(f)` calls f(x) for every element.
template <typename A, typename F>
CONVKIT_INLINE A lp_norm(A p, const F& each) {
  const A inf = std::numeric_limits<A>::infinity();
  A m = p > 0 ? A{0} : inf;
  each([&](A x) {
    const A a = (x < 0 ? -x : x);
    if (a != a || (p > 0 ? a > m : a < m)) m = a;  // nothing beats a NaN
  });
  if (m != m || m == 0 || m == inf) return m;
  A sum = 0;
  each([&](A x) { sum += raise((x < 0 ? -x : x) / m, p); });
  return m * raise(sum, 1 / p);
}

// norm: the derivative of y, which is not 0, in one element of its window: sign(x) (|x| / y)^(p - 1); finite, and 0 at
// 0.
template <typename A>
CONVKIT_INLINE A lp_norm_slope(A p, A x, A y) {
  if (x == 0 || y == 0) return 0;
  const A a = x < 0 ? -x : x, most = std::numeric_limits<A>::max();
  A slope = raise(a == y ? A{1} : a / y, p - 1);
  if (slope > most) slope = most;
  return x < 0 ? -slope : slope;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
