// Vectors of the accumulate type, and partial loads and stores between them and storage types.
//
// One vector holds kLanes<A> elements. AVX-512 has masked moves; elsewhere a partial move is a short loop.
#pragma once

#include "cpu/simd.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define CONVKIT_AVX512 1
#else
#define CONVKIT_AVX512 0
#endif

namespace convkit {
inline namespace CONVKIT_ISA {

template <typename A>
constexpr int kLanes = Vector<A>::lanes;

// Bits [begin, end).
CONVKIT_INLINE uint32_t lane_mask(int64_t begin, int64_t end) {
  return static_cast<uint32_t>((uint64_t{1} << end) - (uint64_t{1} << begin));
}

#if CONVKIT_AVX512

// Lanes of `mask` from p[lane * step], the others zero; nothing else is read. Step 1.
CONVKIT_INLINE vector_t<float> load_lanes(const float* p, uint32_t mask) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
}
CONVKIT_INLINE vector_t<double> load_lanes(const double* p, uint32_t mask) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
}
CONVKIT_INLINE vector_t<float> load_lanes(const bfloat16* p, uint32_t mask) {
  const __m256i h = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
CONVKIT_INLINE vector_t<float> load_lanes(const float16* p, uint32_t mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
}

// The same with step 2: bit i of `mask` becomes bit 2i of the memory mask.
CONVKIT_INLINE uint32_t spread(uint32_t mask) {
  mask = (mask | (mask << 8)) & 0x00ff00ffu;
  mask = (mask | (mask << 4)) & 0x0f0f0f0fu;
  mask = (mask | (mask << 2)) & 0x33333333u;
  return (mask | (mask << 1)) & 0x55555555u;
}
CONVKIT_INLINE vector_t<float> load_even_lanes(const float* p, uint32_t mask) {
  const uint32_t m = spread(mask);
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(m), p);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(m >> 16), p + 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return _mm512_permutex2var_ps(low, even, high);
}
CONVKIT_INLINE vector_t<double> load_even_lanes(const double* p, uint32_t mask) {
  const uint32_t m = spread(mask);
  const __m512d low = _mm512_maskz_loadu_pd(static_cast<__mmask8>(m), p);
  const __m512d high = _mm512_maskz_loadu_pd(static_cast<__mmask8>(m >> 8), p + 8);
  return _mm512_permutex2var_pd(low, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), high);
}
CONVKIT_INLINE vector_t<float> load_even_lanes(const bfloat16* p, uint32_t mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_maskz_loadu_epi16(spread(mask), p), 16));
}
CONVKIT_INLINE vector_t<float> load_even_lanes(const float16* p, uint32_t mask) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_maskz_loadu_epi16(spread(mask), p)));
}

// The same with any step; what a vector spans must be addressable by 32 bits.
CONVKIT_INLINE vector_t<float> load_stepped_lanes(const float* p, int32_t step, uint32_t mask) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), static_cast<__mmask16>(mask),
                                  _mm512_mullo_epi32(lane, _mm512_set1_epi32(step)), p, 4);
}

// Writes the lanes of `mask` to p[lane], rounding to nearest even.
CONVKIT_INLINE void store_lanes(float* p, uint32_t mask, vector_t<float> v) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), v);
}
CONVKIT_INLINE void store_lanes(double* p, uint32_t mask, vector_t<double> v) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), v);
}
CONVKIT_INLINE void store_lanes(bfloat16* p, uint32_t mask, vector_t<float> v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i bits = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
CONVKIT_INLINE void store_lanes(float16* p, uint32_t mask, vector_t<float> v) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// Writes the lanes of `mask` to p[2 * lane]; what lies between stays untouched.
CONVKIT_INLINE void store_even_lanes(float* p, uint32_t mask, vector_t<float> v) {
  const __m512i low = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const uint32_t m = spread(mask);
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(m), _mm512_permutexvar_ps(low, v));
  _mm512_mask_storeu_ps(p + 16, static_cast<__mmask16>(m >> 16), _mm512_permutexvar_ps(high, v));
}

#else

template <typename A>
CONVKIT_INLINE void store_lanes(A* p, uint32_t mask, vector_t<A> v) {
  if (mask == lane_mask(0, kLanes<A>)) return store_vector(p, v);
  for (; mask != 0; mask &= mask - 1) p[__builtin_ctz(mask)] = v[__builtin_ctz(mask)];
}

#endif  // CONVKIT_AVX512

// Lanes of `load_mask` (a run of ones) from p[lane * step], and zeros in the rest of `write_mask` (a run that
// contains it), go to dst[lane]; nothing outside is read or written.
template <typename T>
CONVKIT_INLINE void copy_lanes(accumulate_t<T>* dst, const T* p, int64_t step, uint32_t load_mask,
                               uint32_t write_mask) {
#if CONVKIT_AVX512
  if (step == 1) return store_lanes(dst, write_mask, load_lanes(p, load_mask));
  if (step == 2) return store_lanes(dst, write_mask, load_even_lanes(p, load_mask));
  if constexpr (sizeof(T) == sizeof(float)) {
    if (step > 2 && step < (1 << 27)) {
      const auto lanes = load_stepped_lanes(p, static_cast<int32_t>(step), load_mask);
      return store_lanes(dst, write_mask, lanes);
    }
  }
#else
  constexpr int lanes = kLanes<accumulate_t<T>>;
  if (step == 1 && load_mask == lane_mask(0, lanes)) {
    for (int i = 0; i < lanes; ++i) dst[i] = load(p + i);
    return;
  }
#endif
  for (uint32_t left = write_mask & ~load_mask; left != 0; left &= left - 1) dst[__builtin_ctz(left)] = 0;
  for (uint32_t left = load_mask; left != 0; left &= left - 1) {
    const int i = __builtin_ctz(left);
    dst[i] = load(p + i * step);
  }
}

// dst[i] = src[i * step] for i < count.
template <typename T>
CONVKIT_INLINE void copy_run(accumulate_t<T>* dst, const T* src, int64_t step, int64_t count) {
#if CONVKIT_AVX512
  constexpr int lanes = kLanes<accumulate_t<T>>;
  if (step == 1) {
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) store_vector(dst + i, load_lanes(src + i, lane_mask(0, lanes)));
    if (i < count) store_lanes(dst + i, lane_mask(0, count - i), load_lanes(src + i, lane_mask(0, count - i)));
    return;
  }
#else
  if (step == 1) {
    for (int64_t i = 0; i < count; ++i) dst[i] = load(src + i);
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) dst[i] = load(src + i * step);
}

// dst[j * dst_pitch + i] = src[i * src_pitch + j] for i < rows, j < cols.
template <typename A>
CONVKIT_INLINE void transpose_scalar(A* dst, int64_t dst_pitch, const A* src, int64_t src_pitch, int64_t rows,
                                     int64_t cols) {
  for (int64_t j = 0; j < cols; ++j)
    for (int64_t i = 0; i < rows; ++i) dst[j * dst_pitch + i] = src[i * src_pitch + j];
}

#if CONVKIT_AVX512
// A 16 x 16 block in four rounds of shuffles; rows and cols tell how much of it exists.
CONVKIT_INLINE void transpose_block(float* dst, int64_t dst_pitch, const float* src, int64_t src_pitch, int64_t rows,
                                    int64_t cols) {
  __m512 r[16], t[16];
  const uint32_t in = lane_mask(0, cols), out = lane_mask(0, rows);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
    r[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(i < rows ? in : 0), src + i * src_pitch);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j)
    if (j < cols) _mm512_mask_storeu_ps(dst + j * dst_pitch, static_cast<__mmask16>(out), r[j]);
}
#endif

template <typename A>
CONVKIT_INLINE void transpose(A* dst, int64_t dst_pitch, const A* src, int64_t src_pitch, int64_t rows, int64_t cols) {
#if CONVKIT_AVX512
  if constexpr (sizeof(A) == sizeof(float)) {
    for (int64_t i = 0; i < rows; i += 16)
      for (int64_t j = 0; j < cols; j += 16)
        transpose_block(dst + j * dst_pitch + i, dst_pitch, src + i * src_pitch + j, src_pitch,
                        rows - i < 16 ? rows - i : 16, cols - j < 16 ? cols - j : 16);
    return;
  }
#endif
  transpose_scalar(dst, dst_pitch, src, src_pitch, rows, cols);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
