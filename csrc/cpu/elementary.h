// Elementary functions of vectors of floats.
//
// Computes  exp and expm1 by 2^n e^r with |r| <= ln(2) / 2, and e^r - 1 by a polynomial of degree 6 that was fitted at
//           Chebyshev points and is exact to 2^-26; tanh by expm1; the normal distribution function, with
//           a = |v| / sqrt(2), by the series of erf up to a^15 for a below 0.6, and above by exp(-a^2) times a
//           polynomial in 1 / (a + 1), which was fitted at Chebyshev points and is exact to 2^-23.
// Limits    exp, expm1, sigmoid and tanh are within 4 units in the last place, gelu(v) = v normal(v) within 4 and,
//           below -0.8, v^2 more, as a rounding of v^2 / 2 counts so often (tests/test_elementary.py measures all).
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

// 1 / x for x of at least 1 and far below infinity. AVX-512: an estimate of 14 bits and a step of Newton's method, as a
// division takes as long as ten other instructions.
CONVKIT_INLINE Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
  const Floats r = (Floats)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);  // all lanes: GCC 12 warns about the unmasked form
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

// x = n ln(2) + r: e^x = 2^n (1 + p), p = e^r - 1.
struct Power {
  Floats p, shifted;  // n + kRounder

  // 1.5 2^23: a sum with it is rounded to a whole number, which stands in its low bits.
  static constexpr float kRounder = 12582912.0f;
  static constexpr int32_t kRounderBits = 0x4b400000;

  // For x up to 88. From -105 down the result is 0.
  CONVKIT_INLINE explicit Power(Floats x) {
    const Floats least = broadcast<float>(-105.0f);
    x = x < least ? least : x;
    shifted = x * 1.44269504088896340736f + kRounder;
    const Floats n = shifted - kRounder, r = (x - n * 0.693359375f) - n * -2.12194440054690583e-4f;
    Floats q = r * 1.394647205e-03f + 8.366598098e-03f;
    q = q * r + 4.166628186e-02f;
    q = q * r + 1.666654292e-01f;
    q = q * r + 0.5f;
    p = (q * r) * r + r;
  }

  // v times 2^n.
  CONVKIT_INLINE Floats scaled(Floats v) const {
#if defined(__AVX512F__)
    return (Floats)_mm512_maskz_scalef_ps(0xffff, (__m512)v, (__m512)(shifted - kRounder));
#else
    // The product of two powers, as n may exceed the exponents.
    const FloatInts n = (FloatInts)shifted - kRounderBits, half = n >> 1;
    return v * (Floats)((half + 127) << 23) * (Floats)((n - half + 127) << 23);
#endif
  }
};

// e^x for x up to 88, and 0 below -105. Above, any number.
CONVKIT_INLINE Floats exponential(Floats x) {
  const Power e(x);
  return e.scaled(e.p + 1.0f);
}

// e^x - 1 for x up to 88, and -1 below -105.
CONVKIT_INLINE Floats exponential_less_one(Floats x) {
  const Power e(x);
  return e.scaled(e.p) + (e.scaled(broadcast<float>(1.0f)) - 1.0f);
}

CONVKIT_INLINE Floats hyperbolic_tangent(Floats v) {
  const Floats most = broadcast<float>(20.0f), a = magnitude(v);  // 1 - tanh(20) is below 2^-56
  const Floats e = exponential_less_one((a > most ? most : a) * 2.0f);
  return with_sign_of(e * reciprocal(e + 2.0f), v);
}

// By the exponential of -|v|, which does not overflow.
CONVKIT_INLINE Floats sigmoid(Floats v) {
  const Floats e = exponential(-magnitude(v)), r = reciprocal(1.0f + e);
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
  const Floats most = broadcast<float>(1e4f);  // exp(-a^2) is 0 from 10 on
  const Floats t = reciprocal((a > most ? most : a) + 1.0f);
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
