// Vectors of the accumulate type, as wide as the instruction set's registers: one source for all of them.
//
// Loads and stores convert from and to the storage type and need no alignment. The partial ones touch the
// first n elements only; the other lanes of a partial load are zero.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/dtype.h"

namespace convkit {
inline namespace CONVKIT_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename A>
struct Vector {
  typedef A type __attribute__((vector_size(kVectorBytes)));
  static constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(A));
};
template <typename A>
using vector_t = typename Vector<A>::type;
template <typename T>
constexpr int lanes_of() {
  return Vector<accumulate_t<T>>::lanes;
}

template <typename A>
CONVKIT_INLINE vector_t<A> broadcast(A v) {
  return v - vector_t<A>{};  // minus zero changes nothing, not even the sign of zero
}

// Keeps a loaded value in a register: compilers otherwise repeat the load in every instruction that uses it.
template <typename V>
CONVKIT_INLINE V in_register(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

template <typename T>
CONVKIT_INLINE vector_t<accumulate_t<T>> load_vector(const T* p) {
  vector_t<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
template <typename T>
CONVKIT_INLINE void store_vector(T* p, vector_t<accumulate_t<T>> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

constexpr int kFloatLanes = Vector<float>::lanes;
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t FloatBits __attribute__((vector_size(kVectorBytes)));

template <>
CONVKIT_INLINE vector_t<float> load_vector<bfloat16>(const bfloat16* p) {
  HalfBits h;
  __builtin_memcpy(&h, p, sizeof(h));
  return (vector_t<float>)(__builtin_convertvector(h, FloatBits) << 16);
}
template <>
CONVKIT_INLINE void store_vector<bfloat16>(bfloat16* p, vector_t<float> v) {
  const FloatBits u = (FloatBits)v;
  const FloatBits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
  const HalfBits h = __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, HalfBits);
  __builtin_memcpy(p, &h, sizeof(h));
}

template <>
CONVKIT_INLINE vector_t<float> load_vector<float16>(const float16* p) {
#if defined(__AVX512F__)
  return (vector_t<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (vector_t<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vector_t<float> v;
  for (int i = 0; i < kFloatLanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
template <>
CONVKIT_INLINE void store_vector<float16>(float16* p, vector_t<float> v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kFloatLanes; ++i) p[i] = to_float16(v[i]);
#endif
}

template <typename T>
CONVKIT_INLINE vector_t<accumulate_t<T>> load_partial(const T* p, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (vector_t<accumulate_t<T>>)_mm512_maskz_loadu_ps((1u << n) - 1u, p);
  if constexpr (sizeof(T) == 8) return (vector_t<accumulate_t<T>>)_mm512_maskz_loadu_pd((1u << n) - 1u, p);
#endif
  T copy[lanes_of<T>()] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i];
  return load_vector<T>(copy);
}
template <typename T>
CONVKIT_INLINE void store_partial(T* p, vector_t<accumulate_t<T>> v, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), (__m512d)v);
#endif
  T copy[lanes_of<T>()];
  store_vector<T>(copy, v);
  for (int i = 0; i < n; ++i) p[i] = copy[i];
}

// Lane by lane, for elements `stride` apart.
template <typename T>
CONVKIT_INLINE vector_t<accumulate_t<T>> load_strided(const T* p, int64_t stride, int n) {
  T copy[lanes_of<T>()] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i * stride];
  return load_vector<T>(copy);
}
template <typename T>
CONVKIT_INLINE void store_strided(T* p, int64_t stride, vector_t<accumulate_t<T>> v, int n) {
  T copy[lanes_of<T>()];
  store_vector<T>(copy, v);
  for (int i = 0; i < n; ++i) p[i * stride] = copy[i];
}

// The even (odd) elements of a pair of vectors, and the inverse: the lower (upper) half of a and b interleaved.
template <int kFirst, typename A>
CONVKIT_INLINE vector_t<A> every_second(vector_t<A> a, vector_t<A> b) {
  if constexpr (Vector<A>::lanes == 16)
    return __builtin_shufflevector(a, b, kFirst, kFirst + 2, kFirst + 4, kFirst + 6, kFirst + 8, kFirst + 10,
                                   kFirst + 12, kFirst + 14, kFirst + 16, kFirst + 18, kFirst + 20, kFirst + 22,
                                   kFirst + 24, kFirst + 26, kFirst + 28, kFirst + 30);
  else if constexpr (Vector<A>::lanes == 8)
    return __builtin_shufflevector(a, b, kFirst, kFirst + 2, kFirst + 4, kFirst + 6, kFirst + 8, kFirst + 10,
                                   kFirst + 12, kFirst + 14);
  else if constexpr (Vector<A>::lanes == 4)
    return __builtin_shufflevector(a, b, kFirst, kFirst + 2, kFirst + 4, kFirst + 6);
  else
    return __builtin_shufflevector(a, b, kFirst, kFirst + 2);
}
template <int kUpper, typename A>
CONVKIT_INLINE vector_t<A> interleave(vector_t<A> a, vector_t<A> b) {
  constexpr int n = Vector<A>::lanes, h = kUpper * n / 2;
  if constexpr (n == 16)
    return __builtin_shufflevector(a, b, h, h + n, h + 1, h + 1 + n, h + 2, h + 2 + n, h + 3, h + 3 + n, h + 4,
                                   h + 4 + n, h + 5, h + 5 + n, h + 6, h + 6 + n, h + 7, h + 7 + n);
  else if constexpr (n == 8)
    return __builtin_shufflevector(a, b, h, h + n, h + 1, h + 1 + n, h + 2, h + 2 + n, h + 3, h + 3 + n);
  else if constexpr (n == 4)
    return __builtin_shufflevector(a, b, h, h + n, h + 1, h + 1 + n);
  else
    return __builtin_shufflevector(a, b, h, h + n);
}

// Sum of the lanes, as a tree.
template <typename A>
CONVKIT_INLINE A sum_lanes(vector_t<A> v) {
  constexpr int n = Vector<A>::lanes;
  if constexpr (n == 16) v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  if constexpr (n == 16) v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  if constexpr (n == 8) v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  return n == 2 ? v[0] + v[1] : (v[0] + v[2 % n]) + (v[1] + v[3 % n]);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
