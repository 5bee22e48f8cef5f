// Vectors of one register for the pooling kernels: loads and stores that convert, parts for tails, shuffles.
//
// Values are computed in pool_accumulate_t<T>: float or double, and int32 or int64 for integers, so that one tap
// number per lane is as wide as the value it belongs to.
#pragma once

#include <utility>

#include "core/dtype.h"
#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T>
struct PoolAccumulate {
  using type = int32_t;  // the narrow integers
};
template <>
struct PoolAccumulate<float> {
  using type = float;
};
template <>
struct PoolAccumulate<double> {
  using type = double;
};
template <>
struct PoolAccumulate<bfloat16> {
  using type = float;
};
template <>
struct PoolAccumulate<float16> {
  using type = float;
};
template <>
struct PoolAccumulate<int64_t> {
  using type = int64_t;
};
template <typename T>
using pool_accumulate_t = typename PoolAccumulate<T>::type;

template <int kBytes>
struct IntOf {
  using type = int32_t;
};
template <>
struct IntOf<1> {
  using type = int8_t;
};
template <>
struct IntOf<2> {
  using type = int16_t;
};
template <>
struct IntOf<8> {
  using type = int64_t;
};
// The tap number beside a value of type A.
template <typename A>
using tap_t = typename IntOf<sizeof(A)>::type;

template <typename E>
struct Raw {  // what memory holds, as an element type that vectors can have
  using type = E;
};
template <>
struct Raw<bfloat16> {
  using type = uint16_t;
};
template <>
struct Raw<float16> {
  using type = uint16_t;
};

template <typename E, int kCount>
struct Simd {
  typedef typename Raw<E>::type type __attribute__((vector_size(kCount * sizeof(E))));
};
template <typename A>
struct Lanes {
  static constexpr int count = kVectorBytes / static_cast<int>(sizeof(A));
};
template <typename A>
using Vec = typename Simd<A, Lanes<A>::count>::type;

// Minus zero changes nothing, not even the sign of zero, and leaves one broadcast. (GCC 12 makes a masked broadcast per
// lane of a loop over the lanes.)
template <typename A>
CONVKIT_INLINE Vec<A> splat(A v) {
  return v - Vec<A>{};
}

template <typename R, typename T>
CONVKIT_INLINE R load_raw(const T* p) {
  R r;
  __builtin_memcpy(&r, p, sizeof(r));
  return r;
}

// Elements base[at[0]], base[at[1]], ...
template <typename A>
CONVKIT_INLINE Vec<A> gather(const A* base, Vec<tap_t<A>> at) {
#if defined(__AVX512F__)
  const __m512i none = _mm512_setzero_si512();
  if constexpr (sizeof(A) == 4)
    return (Vec<A>)_mm512_mask_i32gather_epi32(none, 0xffff, (__m512i)at, base, 4);
  else
    return (Vec<A>)_mm512_mask_i64gather_epi64(none, 0xff, (__m512i)at, base, 8);
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4)
    return (Vec<A>)_mm256_i32gather_epi32(reinterpret_cast<const int*>(base), (__m256i)at, 4);
  else
    return (Vec<A>)_mm256_i64gather_epi64(reinterpret_cast<const long long*>(base), (__m256i)at, 8);
#else
  Vec<A> v;
  for (int i = 0; i < Lanes<A>::count; ++i) v[i] = base[at[i]];
  return v;
#endif
}

// The first n elements (fewer than a vector), zeros behind them; reads nothing else.
template <typename R, typename T>
CONVKIT_INLINE R load_raw_part(const T* p, int64_t n) {
#if defined(__AVX512F__)
  const uint32_t mask = (1u << n) - 1u;
  if constexpr (sizeof(R) == 64 && sizeof(T) == 4)
    return (R)_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), p);
  else if constexpr (sizeof(R) == 64 && sizeof(T) == 8)
    return (R)_mm512_maskz_loadu_epi64(static_cast<__mmask8>(mask), p);
  else if constexpr (sizeof(R) == 32 && sizeof(T) == 2)
    return (R)_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
  else if constexpr (sizeof(R) == 16 && sizeof(T) == 1)
    return (R)_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), p);
  else
#endif
  {
    R r{};
    __builtin_memcpy(&r, p, static_cast<size_t>(n) * sizeof(T));
    return r;
  }
}

template <typename R, typename T>
CONVKIT_INLINE void store_raw_part(T* p, R r, int64_t n) {
#if defined(__AVX512F__)
  const uint32_t mask = (1u << n) - 1u;
  if constexpr (sizeof(R) == 64 && sizeof(T) == 4)
    _mm512_mask_storeu_epi32(p, static_cast<__mmask16>(mask), (__m512i)r);
  else if constexpr (sizeof(R) == 64 && sizeof(T) == 8)
    _mm512_mask_storeu_epi64(p, static_cast<__mmask8>(mask), (__m512i)r);
  else if constexpr (sizeof(R) == 32 && sizeof(T) == 2)
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), (__m256i)r);
  else if constexpr (sizeof(R) == 16 && sizeof(T) == 1)
    _mm_mask_storeu_epi8(p, static_cast<__mmask16>(mask), (__m128i)r);
  else
#endif
    __builtin_memcpy(p, &r, static_cast<size_t>(n) * sizeof(T));
}

// Lanes of whole numbers as wider or narrower ones, in steps of twice or half the width: GCC takes longer ones apart
// into scalars.
template <typename To, typename From>
CONVKIT_INLINE To convert_lanes(From v) {
  constexpr int lanes = sizeof(To) / sizeof(To{}[0]), from = sizeof(From{}[0]), to = sizeof(To{}[0]);
  if constexpr (from == to) {
    return (To)v;
  } else {
    constexpr int next = from < to ? 2 * from : from / 2;
    return convert_lanes<To>(__builtin_convertvector(v, typename Simd<typename IntOf<next>::type, lanes>::type));
  }
}

template <typename T, typename R>
CONVKIT_INLINE Vec<pool_accumulate_t<T>> widen(R r) {
  using A = pool_accumulate_t<T>;
  using V = Vec<A>;
  if constexpr (sizeof(T) == sizeof(A)) {
    return r;
  } else if constexpr (__is_same(T, bfloat16)) {
    using U = typename Simd<uint32_t, Lanes<A>::count>::type;
    return (V)(__builtin_convertvector(r, U) << 16);
  } else if constexpr (__is_same(T, float16)) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, (__m256i)r);  // all lanes: GCC 12 warns about the unmasked form
#elif defined(__F16C__)
    return _mm256_cvtph_ps((__m128i)r);
#else
    V v;
    for (int i = 0; i < Lanes<A>::count; ++i) v[i] = to_float(float16{r[i]});
    return v;
#endif
  } else {
    return convert_lanes<V>(r);
  }
}

template <typename T>
CONVKIT_INLINE typename Simd<T, Lanes<pool_accumulate_t<T>>::count>::type narrow(Vec<pool_accumulate_t<T>> v) {
  using A = pool_accumulate_t<T>;
  constexpr int n = Lanes<A>::count;
  using R = typename Simd<T, n>::type;
  if constexpr (sizeof(T) == sizeof(A)) {
    return v;
  } else if constexpr (__is_same(T, bfloat16)) {  // as to_bfloat16
    using U = typename Simd<uint32_t, n>::type;
    const U u = (U)v;
    const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    return __builtin_convertvector(v != v ? quiet : rounded, R);
  } else if constexpr (__is_same(T, float16)) {
#if defined(__AVX512F__)
    return (R)_mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    return (R)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#else
    R r;
    for (int i = 0; i < n; ++i) r[i] = to_float16(v[i]).bits;
    return r;
#endif
  } else {
    return __builtin_convertvector(v, R);
  }
}

template <typename T>
using raw_t = typename Simd<T, Lanes<pool_accumulate_t<T>>::count>::type;

template <typename T>
CONVKIT_INLINE Vec<pool_accumulate_t<T>> load_vec(const T* p) {
  return widen<T>(load_raw<raw_t<T>>(p));
}
template <typename T>
CONVKIT_INLINE Vec<pool_accumulate_t<T>> load_part(const T* p, int64_t n) {
  return widen<T>(load_raw_part<raw_t<T>>(p, n));
}
// All of a vector, or the first n < lanes.
template <typename T>
CONVKIT_INLINE Vec<pool_accumulate_t<T>> load_up_to(const T* p, int64_t n) {
  return n >= Lanes<pool_accumulate_t<T>>::count ? load_vec(p) : load_part(p, n);
}
template <typename T>
CONVKIT_INLINE void store_vec(T* p, Vec<pool_accumulate_t<T>> v) {
  const raw_t<T> r = narrow<T>(v);
  __builtin_memcpy(p, &r, sizeof(r));
}
template <typename T>
CONVKIT_INLINE void store_part(T* p, Vec<pool_accumulate_t<T>> v, int64_t n) {
  store_raw_part(p, narrow<T>(v), n);
}
// All of a vector, or the first n < lanes.
template <typename T>
CONVKIT_INLINE void store_up_to(T* p, Vec<pool_accumulate_t<T>> v, int64_t n) {
  if (n >= Lanes<pool_accumulate_t<T>>::count)
    store_vec(p, v);
  else
    store_part(p, v, n);
}

template <typename T>
CONVKIT_INLINE pool_accumulate_t<T> load_one(const T* p) {
  return static_cast<pool_accumulate_t<T>>(load(p));
}
template <typename T>
CONVKIT_INLINE void store_one(T* p, pool_accumulate_t<T> v) {
  store(p, static_cast<accumulate_t<T>>(v));
}

// Tap numbers <-> window offsets of 1, 2 or 4 bytes.
template <typename O, typename K>
CONVKIT_INLINE K load_taps_as(const O* p, int64_t n) {
  constexpr int lanes = sizeof(K) / sizeof(K{}[0]);
  using R = typename Simd<O, lanes>::type;
  return convert_lanes<K>(n >= lanes ? load_raw<R>(p) : load_raw_part<R>(p, n));
}
template <typename K>
CONVKIT_INLINE K load_taps(const void* base, int64_t at, int64_t bytes, int64_t n) {
  if (bytes == 1) return load_taps_as<uint8_t, K>(static_cast<const uint8_t*>(base) + at, n);
  if (bytes == 2) return load_taps_as<int16_t, K>(static_cast<const int16_t*>(base) + at, n);
  return load_taps_as<int32_t, K>(static_cast<const int32_t*>(base) + at, n);
}
template <typename O, typename K>
CONVKIT_INLINE void store_taps_as(O* p, K taps, int64_t n) {
  constexpr int lanes = sizeof(K) / sizeof(K{}[0]);
  using R = typename Simd<O, lanes>::type;
  const R r = convert_lanes<R>(taps);
  if (n >= lanes)
    __builtin_memcpy(p, &r, sizeof(r));
  else
    store_raw_part(p, r, n);
}
template <typename K>
CONVKIT_INLINE void store_taps(void* base, int64_t at, int64_t bytes, K taps, int64_t n) {
  if (bytes == 1) return store_taps_as(static_cast<uint8_t*>(base) + at, taps, n);
  if (bytes == 2) return store_taps_as(static_cast<int16_t*>(base) + at, taps, n);
  store_taps_as(static_cast<int32_t*>(base) + at, taps, n);
}
// Every second lane of (a, b), from lane kFirst on; and the two vectors that such a pair came from.
template <int kFirst, typename V, int... i>
CONVKIT_INLINE V every_second(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (2 * i + kFirst)...);
}
template <int kHalf, typename V, int... i>
CONVKIT_INLINE V zipped(V even, V odd, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i);
  return __builtin_shufflevector(even, odd, (kHalf * n / 2 + i / 2 + (i % 2) * n)...);
}
// The same for every third lane of (a, b, c): two shuffles each, since a shuffle has two sources.
template <int kFirst, typename V, int... i>
CONVKIT_INLINE V every_third(V a, V b, V c, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i);
  const V ab = __builtin_shufflevector(a, b, (3 * i + kFirst < 2 * n ? 3 * i + kFirst : 0)...);
  return __builtin_shufflevector(ab, c, (3 * i + kFirst < 2 * n ? i : 3 * i + kFirst - n)...);
}
template <int kPart, typename V, int... i>
CONVKIT_INLINE V zipped_three(V a, V b, V c, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i), first = kPart * n;
  const V ab = __builtin_shufflevector(a, b, ((first + i) % 3 == 1 ? n + (first + i) / 3 : (first + i) / 3)...);
  return __builtin_shufflevector(ab, c, ((first + i) % 3 == 2 ? n + (first + i) / 3 : i)...);
}
template <typename A>
using LaneNumbers = std::make_integer_sequence<int, Lanes<A>::count>;

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
