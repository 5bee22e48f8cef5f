// Element types, their 16-bit conversions, and `visit`: the only dtype dispatch.
#pragma once

#include "core/macros.h"

#if defined(__F16C__)
// GCC's own header starts undefined vectors from themselves, and warns about it where they are inlined.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace convkit {

enum class DType : int32_t {
  kFloat32,
  kFloat64,
  kBFloat16,
  kFloat16,
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kComplex64,
  kComplex128,
};

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};
template <typename T>
struct complex {
  T re, im;
  CONVKIT_INLINE complex operator+(complex other) const { return {re + other.re, im + other.im}; }
};

inline namespace CONVKIT_ISA {

CONVKIT_INLINE int64_t dtype_bytes(DType t) {
  switch (t) {
    case DType::kUInt8:
    case DType::kInt8: return 1;
    case DType::kBFloat16:
    case DType::kFloat16:
    case DType::kInt16: return 2;
    case DType::kFloat32:
    case DType::kInt32: return 4;
    case DType::kFloat64:
    case DType::kInt64:
    case DType::kComplex64: return 8;
    case DType::kComplex128: return 16;
  }
  return 0;
}

// Reinterprets bits; the two types have the same size.
template <typename To, typename From>
CONVKIT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

CONVKIT_INLINE float to_float(bfloat16 v) { return bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }

// Round to nearest even; a NaN stays a (quiet) NaN.
CONVKIT_INLINE bfloat16 to_bfloat16(float v) {
#if defined(__CUDA_ARCH__)
  bfloat16 narrow;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(v));
  return narrow;
#else
  const uint32_t u = bit_cast<uint32_t>(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bfloat16{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return bfloat16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
#endif
}

CONVKIT_INLINE float to_float(float16 v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.bits);
#elif defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
  return wide;
#else
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const uint32_t rest = v.bits & 0x7fffu;
  if (rest >= 0x7c00u) {  // inf and NaN, made quiet as the hardware does
    const uint32_t quiet = rest > 0x7c00u ? 0x400000u : 0u;
    return bit_cast<float>(sign | 0x7f800000u | quiet | ((rest & 0x3ffu) << 13));
  }
  if (rest >= 0x400u) return bit_cast<float>(sign | ((rest << 13) + 0x38000000u));
  const float magnitude = static_cast<float>(rest) * 5.9604644775390625e-8f;  // subnormal: rest * 2^-24
  return bit_cast<float>(sign | bit_cast<uint32_t>(magnitude));
#endif
}

// Round to nearest even; overflow becomes infinity, a NaN stays a (quiet) NaN.
CONVKIT_INLINE float16 to_float16(float v) {
#if defined(__F16C__)
  return float16{static_cast<uint16_t>(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT))};
#elif defined(__CUDA_ARCH__)
  float16 narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(v));
  return narrow;
#else
  const uint32_t u = bit_cast<uint32_t>(v);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return float16{static_cast<uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu))};
  if (a >= 0x477ff000u) return float16{static_cast<uint16_t>(sign | 0x7c00u)};
  if (a < 0x38800000u) {  // subnormal result: adding 0.5 leaves the rounded significand in the low bits
    const float magic = bit_cast<float>(a) + 0.5f;
    return float16{static_cast<uint16_t>(sign | (bit_cast<uint32_t>(magic) - 0x3f000000u))};
  }
  return float16{static_cast<uint16_t>(sign | ((a + 0xc8000fffu + ((a >> 13) & 1u)) >> 13))};
#endif
}

// Accumulate<T>::type: the type sums are kept in.
template <typename T>
struct Accumulate {
  using type = T;
};
template <>
struct Accumulate<bfloat16> {
  using type = float;
};
template <>
struct Accumulate<float16> {
  using type = float;
};
template <typename T>
struct IsFloating {
  static constexpr bool value = false;
};
template <>
struct IsFloating<float> {
  static constexpr bool value = true;
};
template <>
struct IsFloating<double> {
  static constexpr bool value = true;
};

template <typename T>
using accumulate_t = typename Accumulate<T>::type;

// Storage type <-> accumulate type.
template <typename T>
CONVKIT_INLINE accumulate_t<T> load(const T* p) {
  return *p;
}
template <>
CONVKIT_INLINE float load<bfloat16>(const bfloat16* p) {
  return to_float(*p);
}
template <>
CONVKIT_INLINE float load<float16>(const float16* p) {
  return to_float(*p);
}
template <typename T>
CONVKIT_INLINE void store(T* p, accumulate_t<T> v) {
  *p = v;
}
template <>
CONVKIT_INLINE void store<bfloat16>(bfloat16* p, float v) {
  *p = to_bfloat16(v);
}
template <>
CONVKIT_INLINE void store<float16>(float16* p, float v) {
  *p = to_float16(v);
}

template <typename T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}) for the floating type named by `t`; false if `t` is none.
template <typename F>
CONVKIT_INLINE_HOST bool visit_floating(DType t, F&& f) {
  switch (t) {
    case DType::kFloat32: f(Type<float>{}); return true;
    case DType::kFloat64: f(Type<double>{}); return true;
    case DType::kBFloat16: f(Type<bfloat16>{}); return true;
    case DType::kFloat16: f(Type<float16>{}); return true;
    default: return false;
  }
}

// The same for integers.
template <typename F>
CONVKIT_INLINE_HOST bool visit_integral(DType t, F&& f) {
  switch (t) {
    case DType::kUInt8: f(Type<uint8_t>{}); return true;
    case DType::kInt8: f(Type<int8_t>{}); return true;
    case DType::kInt16: f(Type<int16_t>{}); return true;
    case DType::kInt32: f(Type<int32_t>{}); return true;
    case DType::kInt64: f(Type<int64_t>{}); return true;
    default: return false;
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
