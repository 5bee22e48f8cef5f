// The power of an Lp pooling, and the arithmetic of one window in the order of its definition.
//
// torch: y = (K / count * sum of x^p)^(1/p), K the window's size and count what avg_pool divides by; whatever
//        powers of negative numbers are, so may y be NaN. The gradient is 0 where the sum is.
// norm:  y = (sum of |x|^p)^(1/p) over the elements in the input, by way of |x| / m, m being the largest of them (the
//        smallest for negative p): neither overflow nor underflow loses anything.
#pragma once

#include <math.h>

#include <limits>
#include <type_traits>

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

// Which powers have a shorter way than `raise`.
enum class Degree { kOne, kTwo, kThree, kAny };

CONVKIT_INLINE Degree degree_of(double p) {
  return p == 1 ? Degree::kOne : p == 2 ? Degree::kTwo : p == 3 ? Degree::kThree : Degree::kAny;
}

// Sums of powers within these bounds, and squares and cubes of elements, are as exact as their elements.
template <typename A>
struct SafeRange;
template <>
struct SafeRange<float> {
  static constexpr float least = 0x1p-100f, most = 0x1p100f;
};
template <>
struct SafeRange<double> {
  static constexpr double least = 0x1p-900, most = 0x1p900;
};

// torch: sums from here on are infinite in T, where PyTorch stores them.
template <typename T>
CONVKIT_INLINE accumulate_t<T> overflowing_sum() {
  if (sizeof(T) != 2) return std::numeric_limits<accumulate_t<T>>::infinity();
  return static_cast<accumulate_t<T>>(std::is_same<T, float16>::value ? 65520.0f : 0x1.ffp127f);
}

CONVKIT_INLINE float raise(float x, float p) { return ::powf(x, p); }
CONVKIT_INLINE double raise(double x, double p) { return ::pow(x, p); }
CONVKIT_INLINE float square_root(float x) { return ::sqrtf(x); }
CONVKIT_INLINE double square_root(double x) { return ::sqrt(x); }
CONVKIT_INLINE float logarithm(float x) { return ::logf(x); }
CONVKIT_INLINE double logarithm(double x) { return ::log(x); }

// An exponent as the sum of two numbers: 1/3, or 1.7 in float32, needs more digits than one has.
template <typename A>
struct SplitExponent {
  A value, rest;

  static CONVKIT_INLINE SplitExponent of(double exact, double beyond = 0) {
    const A value = static_cast<A>(exact);
    const double rest = exact - static_cast<double>(value) + beyond;
    return {value, rest == rest ? static_cast<A>(rest) : A{0}};  // infinities have no rest
  }
};

// x to the power p; PyTorch computes square roots as such: NaN of minus infinity, minus 0 of itself.
template <typename A>
CONVKIT_INLINE A raise(A x, const SplitExponent<A>& p) {
  if (p.rest == 0 && (p.value == A(0.5) || p.value == A(-0.5)))
    return p.value > 0 ? square_root(x) : 1 / square_root(x);
  const A r = raise(x, p.value);
  if (p.rest == 0) return r;
  const A inf = std::numeric_limits<A>::infinity();
  if (x < 0 && x > -inf) return std::numeric_limits<A>::quiet_NaN();  // no whole number has a rest
  return x > 0 && x < inf && r > 0 && r < inf ? r + r * (p.rest * logarithm(x)) : r;
}

// What kernels that compute one element at a time know of the power: p, 1/p, p - 1 and 1 - p. Without kPowers the
// exponent is 1, 2 or 3, and nothing is compiled that others need.
template <typename T, bool kPowers>
struct LpTerms {
  using A = accumulate_t<T>;
  SplitExponent<A> p, root, slope, weight;
  Degree degree;
  bool norm;
  A window;  // torch: the window's size, that a mean becomes a sum again
  A dead;    // torch: the result, besides 0, of a sum of 0

  static CONVKIT_INLINE LpTerms of(const LpPower& power, double window) {
    const double exact = lp_exponent(power), root = 1 / exact;
    return {SplitExponent<A>::of(exact),
            SplitExponent<A>::of(root, ::fma(-root, exact, 1.0) / exact),
            SplitExponent<A>::of(exact - 1),
            SplitExponent<A>::of(1 - exact),
            degree_of(exact),
            power.norm,
            power.norm ? A{1} : static_cast<A>(window),
            exact < 0 ? std::numeric_limits<A>::infinity() : A{0}};
  }

  // What an element adds to its window's sum.
  CONVKIT_INLINE A enter(A x) const {
    if (degree == Degree::kTwo) return x * x;
    const A a = norm && x < 0 ? -x : x;
    if (degree == Degree::kOne) return a;
    if (!kPowers || degree == Degree::kThree) return a * a * a;
    return raise(a, p);
  }
  // The root of a sum. torch: the sum is a full window's, stored as T for a moment.
  CONVKIT_INLINE A finish(A sum) const {
    A u = sum + A{0};  // PyTorch's roots are of 0, never of minus 0
    const A inf = std::numeric_limits<A>::infinity(), most = overflowing_sum<T>();
    if (!norm && sizeof(T) == 2) u = u >= most ? inf : u <= -most ? -inf : u;
    if (degree == Degree::kOne) return u;
    if (degree == Degree::kTwo) return square_root(u);
    return raise(u, root);
  }
  // norm: whether a sum's root is right.
  static CONVKIT_INLINE bool safe(A sum) { return sum >= SafeRange<A>::least && sum <= SafeRange<A>::most; }

  // torch: dx = the sum of `weigh` over an element's windows, times `slope_at` the element.
  CONVKIT_INLINE A weigh(A dy, A y) const {
    if (y == A{0} || y == dead) return 0;
    if (degree == Degree::kOne) return dy * window;
    if (degree == Degree::kTwo) return dy / y * window;
    if (!kPowers || degree == Degree::kThree) return dy / (y * y) * window;
    return dy * raise(y, weight) * window;
  }
  CONVKIT_INLINE A slope_at(A x) const {
    if (degree == Degree::kOne) return 1;
    if (degree == Degree::kTwo) return x;
    if (!kPowers || degree == Degree::kThree) return x * x;
    return raise(x, slope);
  }
};

// norm, one window by its definition; `each(f)` calls f(x) for every element, `power` and `root` are p's.
template <typename A, typename Power, typename Root, typename F>
CONVKIT_INLINE A lp_norm(bool positive, const Power& power, const Root& root, const F& each) {
  const A inf = std::numeric_limits<A>::infinity();
  A m = positive ? A{0} : inf;
  each([&](A x) {
    const A a = (x < 0 ? -x : x);
    if (a != a || (positive ? a > m : a < m)) m = a;  // nothing beats a NaN
  });
  if (m != m || m == 0 || m == inf) return m;
  A sum = 0;
  each([&](A x) { sum += power((x < 0 ? -x : x) / m); });
  return m * root(sum);
}
template <typename A, typename F>
CONVKIT_INLINE A lp_norm(A p, const F& each) {
  return lp_norm<A>(p > 0, [p](A a) { return raise(a, p); }, [p](A u) { return raise(u, 1 / p); }, each);
}

// norm: the derivative of y, which is not 0, in one element of its window: sign(x) (|x| / y)^(p - 1); finite, and 0 at
// 0. `power` raises to p - 1.
template <typename A, typename Power>
CONVKIT_INLINE A lp_norm_slope_by(const Power& power, A x, A y) {
  if (x == 0 || y == 0) return 0;
  const A a = x < 0 ? -x : x, most = std::numeric_limits<A>::max();
  A slope = power(a == y ? A{1} : a / y);
  if (slope > most) slope = most;
  return x < 0 ? -slope : slope;
}
template <typename A>
CONVKIT_INLINE A lp_norm_slope(A p, A x, A y) {
  return lp_norm_slope_by([p](A a) { return raise(a, p - 1); }, x, y);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
