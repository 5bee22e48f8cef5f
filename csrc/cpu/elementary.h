// Elementary functions of vectors of floats.
//
// Computes  exp and expm1 by 2^n e^r with |r| <= ln(2) / 2 and the Taylor series of e^r up to the 8th power, which is
//           exact to 2^-31; tanh by expm1; the normal distribution function, with a = |v| / sqrt(2), by the series of
//           erf up to a^15 for a below 0.6, and above by exp(-a^2) times a polynomial in 1 / (a + 1), which was fitted
//           at Chebyshev points and is exact to 2^-23.
// Limits    exp, expm1, sigmoid and tanh are within 4 units in the last place, gelu(v) = v normal(v) within 4 and,
// below
//           -0.8, v^2 more, as a rounding of v^2 / 2 counts so often (tests/test_elementary.py measures all of them).
//           NaN stays NaN.
#pragma once

#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {

typedef vector_t<float> Floats;
typedef int32_t FloatInts __attribute__((vector_size(kVectorBytes)));

CONVKIT_INLINE Floats magnitude(Floats v) { return (Floats)((FloatInts)v & 0x7fffffff); }
CONVKIT_INLINE Floats with_sign_of(Floats v, Floats other) {
  return (Floats)(((FloatInts)v & 0x7fffffff) | ((FloatInts)other & static_cast<int32_t>(0x80000000u)));
}

// x = n ln(2) + r: e^x = 2^n (1 + p), p = e^r - 1; 2^n is the product of two numbers, as n may exceed the exponents.
struct Power {
  Floats p, scale, rest;
};

CONVKIT_INLINE Power power_of_two(Floats x) {
  const Floats most = broadcast<float>(89.0f), least = broadcast<float>(-105.0f);  // beyond, infinity and 0
  x = x > most ? most : x;
  x = x < least ? least : x;
  const Floats round = broadcast<float>(12582912.0f);  // a sum with it holds n in its low bits
  const Floats shifted = x * 1.44269504088896340736f + round, n = shifted - round;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440054690583e-4f;
  Floats p = r * (1.0f / 40320) + 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = (p * r) * r + r;
  const FloatInts whole = (FloatInts)shifted - 0x4b400000, half = whole >> 1;
  return {p, (Floats)((half + 127) << 23), (Floats)((whole - half + 127) << 23)};
}

CONVKIT_INLINE Floats exponential(Floats x) {
  const Power e = power_of_two(x);
  return (e.p * e.scale + e.scale) * e.rest;
}

// e^x - 1 for x up to 88, and -1 below -105.
CONVKIT_INLINE Floats exponential_less_one(Floats x) {
  const Power e = power_of_two(x);
  const Floats scale = e.scale * e.rest;
  return e.p * scale + (scale - 1.0f);
}

CONVKIT_INLINE Floats hyperbolic_tangent(Floats v) {
  const Floats most = broadcast<float>(20.0f), a = magnitude(v);  // 1 - tanh(20) is below 2^-56
  const Floats e = exponential_less_one((a > most ? most : a) * 2.0f);
  return with_sign_of(e / (e + 2.0f), v);
}

// By the exponential of -|v|, which does not overflow.
CONVKIT_INLINE Floats sigmoid(Floats v) {
  const Floats e = exponential(-magnitude(v)), r = 1.0f / (1.0f + e);
  return v < 0.0f ? e * r : r;
}

// The distribution function of the normal distribution, and its density.
struct Normal {
  Floats below, density;
};

CONVKIT_INLINE Normal normal(Floats v) {
  const Floats a = magnitude(v) * 0.70710678118654752440f, z = v * v * 0.5f;
  // 0.5 erf(a) / a
  Floats s = z * -7.4628251792030e-06f + 6.0276664908949e-05f;
  s = s * z - 4.2741635117255e-04f;
  s = s * z + 2.6119888127212e-03f;
  s = s * z - 1.3433085322566e-02f;
  s = s * z + 5.6418958354776e-02f;
  s = s * z - 1.8806319451592e-01f;
  s = s * z + 5.6418958354776e-01f;
  // 0.5 erfc(a) exp(a^2), as a series in t = 1 / (a + 1)
  const Floats t = 1.0f / (a + 1.0f);
  Floats q = t * -1.05134031664f + 3.73263476041f;
  q = q * t - 5.35445823519f;
  q = q * t + 3.62526451974f;
  q = q * t - 0.761581510743f;
  q = q * t - 0.252458619769f;
  q = q * t - 0.149337704885f;
  q = q * t + 0.141397186365f;
  q = q * t + 0.282089024789f;
  q = q * t + 0.282094807595f;
  const Floats e = exponential(-z);
  const Floats tail = q * t * e;
  const Floats near = with_sign_of(a * s, v) + 0.5f;
  const Floats far = v < 0.0f ? tail : 1.0f - tail;
  return {a < 0.6f ? near : far, e * 0.39894228040143267794f};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
