// x^y for vectors: what std::pow returns, for one exponent and many bases.
//
// Computes  float: 2^(y log2 |x|) in double, so that the one rounding at the end is all but the only error; then zeros,
//           infinities, NaN and negative bases as C defines them. double: std::pow lane by lane.
// Limits    log2 by the series of atanh up to the 13th power, 2^f by its Taylor series up to the 9th: both are
//           exact to 2^-36, and |y log2 x| is at most 149 where the result is a float, so the error before the rounding
//           is below 2^-28 of the result.
#pragma once

#include <limits>

#include "cpu/pool_vector.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// An exponent, and what follows from it for special bases.
template <typename A>
struct Exponent {
  double value, rest;  // the exponent is their sum: a reciprocal such as 1/3 needs more digits than a double has
  A at_zero, at_infinity;
  bool whole, odd;
  bool square_root;  // 1/2 and -1/2, which PyTorch computes by it: NaN for minus infinity, minus zero for itself

  static CONVKIT_INLINE Exponent of(double y, double rest = 0) {
    const A inf = std::numeric_limits<A>::infinity();
    const bool whole = __builtin_floor(y) == y;
    Exponent e{y,
               rest,
               static_cast<A>(y),
               static_cast<A>(y),
               whole,
               whole && __builtin_floor(y / 2) != y / 2,
               y == 0.5 || y == -0.5};
    if (y == y) e.at_zero = y > 0 ? A{0} : y < 0 ? inf : A{1};
    if (y == y) e.at_infinity = y > 0 ? inf : y < 0 ? A{0} : A{1};
    return e;
  }
};

typedef double HalfDoubles __attribute__((vector_size(kVectorBytes)));
typedef uint64_t HalfBits64 __attribute__((vector_size(kVectorBytes)));
typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));

// a / b for b of ordinary size, to a few units in the last place. The division of a whole vector of doubles takes as
// long as the rest of a power; an estimate of 14 bits and two steps of Newton's take a third of that.
CONVKIT_INLINE HalfDoubles quotient(HalfDoubles a, HalfDoubles b) {
#if defined(__AVX512F__)
  HalfDoubles r = _mm512_maskz_rcp14_pd(0xff, b);
  r = r + r * (1.0 - b * r);
  return a * (r + r * (1.0 - b * r));
#else
  return a / b;
#endif
}

// 2^(y log2 a) for finite a > 0 that were floats.
CONVKIT_INLINE HalfDoubles positive_power(HalfDoubles a, double y) {
  constexpr double per_ln2 = 1.4426950408889634074;
  // a = 2^e m with m from sqrt(1/2) to sqrt(2)
  constexpr uint64_t root_half = 0x3fe6a09e667f3bcd, bias = uint64_t{1024} << 52;
  const HalfBits64 bits = (HalfBits64)a, exponent = (bits - root_half + bias) >> 52;
  const HalfDoubles m = (HalfDoubles)(bits - (exponent << 52) + bias);
  const HalfDoubles e = (HalfDoubles)(exponent | 0x4330000000000000u) - (4503599627370496.0 + 1024.0);
  const HalfDoubles s = quotient(m - 1.0, m + 1.0), z = s * s;
  HalfDoubles series = z * (1.0 / 13) + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  series = series * z + 1.0;
  HalfDoubles t = (e + s * series * (2 * per_ln2)) * y;
  t = t > 1000.0 ? HalfDoubles{} + 1000.0 : t;
  t = t < -1000.0 ? HalfDoubles{} - 1000.0 : t;
  // 2^t = 2^n 2^f with |f| at most 1/2; the sum with `round` holds n in its low bits
  constexpr double round = 6755399441055744.0;
  const HalfDoubles shifted = t + round, f = (t - (shifted - round)) * (1 / per_ln2);
  HalfDoubles power = f * (1.0 / 362880) + 1.0 / 40320;
  power = power * f + 1.0 / 5040;
  power = power * f + 1.0 / 720;
  power = power * f + 1.0 / 120;
  power = power * f + 1.0 / 24;
  power = power * f + 1.0 / 6;
  power = power * f + 0.5;
  power = power * f + 1.0;
  power = power * f + 1.0;
  return power * (HalfDoubles)(((HalfBits64)shifted << 52) + 0x3ff0000000000000u);
}

__attribute__((noinline)) Vec<float> power(Vec<float> x, const Exponent<float>& y) {
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  const Bits sign = (Bits)x & 0x80000000u;
  const Vec<float> a = (Vec<float>)((Bits)x ^ sign);
  HalfFloats half[2];
  __builtin_memcpy(half, &a, sizeof(a));
  // An infinite exponent times the logarithm of 1 is 0, not NaN.
  const double exponent = y.value > 1e30 ? 1e30 : y.value < -1e30 ? -1e30 : y.value;
  for (HalfFloats& h : half)
    h = __builtin_convertvector(positive_power(__builtin_convertvector(h, HalfDoubles), exponent), HalfFloats);
  Vec<float> r;
  __builtin_memcpy(&r, half, sizeof(r));
  const float inf = std::numeric_limits<float>::infinity();
  r = a == 0.0f ? splat<float>(y.at_zero) : r;
  r = a == inf ? splat<float>(y.at_infinity) : r;
  r = a != a ? (y.value == 0 ? splat<float>(1.0f) : a) : r;
  if (y.odd) return (Vec<float>)((Bits)r | sign);
  if (y.whole) return r;
  const Vec<float> undefined = splat<float>(std::numeric_limits<float>::quiet_NaN());
  if (y.square_root) return x < 0.0f ? undefined : a == 0.0f ? (Vec<float>)((Bits)r | sign) : r;
  return (x < 0.0f) & (a != inf) ? undefined : r;
}

__attribute__((noinline)) Vec<double> power(Vec<double> x, const Exponent<double>& y) {
  const double inf = std::numeric_limits<double>::infinity();
  for (int i = 0; i < Lanes<double>::count; ++i) {
    const double a = x[i];
    double r = __builtin_pow(a, y.value);
    if (y.square_root) r = y.value > 0 ? __builtin_sqrt(a) : 1 / __builtin_sqrt(a);
    const bool ordinary = y.rest != 0 && a > 0 && a < inf && r > 0 && r < inf;
    x[i] = ordinary ? r + r * (y.rest * __builtin_log(a)) : r;
  }
  return x;
}

CONVKIT_INLINE Vec<float> square_root(Vec<float> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < Lanes<float>::count; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
CONVKIT_INLINE Vec<double> square_root(Vec<double> x) {
  for (int i = 0; i < Lanes<double>::count; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
