// Philox draws in vectors: one index per lane.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/philox.h"
#include "cpu/pool_vector.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kWordLanes = kVectorBytes / 8;
using Words = Simd<uint64_t, kWordLanes>::type;

struct MultiplyVectors {
  CONVKIT_INLINE Words operator()(Words a, uint32_t m) const {
#if defined(__AVX512F__)
    return (Words)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    return (Words)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
    return (Words)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
    return (a & uint64_t{0xffffffffu}) * uint64_t{m};
#endif
  }
};

// The indices of a Vec<A>'s lanes: lane i is element i / kParts of part[i % kParts], where the draws are needed.
template <typename A>
struct LaneIndex {
  static constexpr int kParts = 8 / static_cast<int>(sizeof(A));
  Words part[kParts];

  CONVKIT_INLINE LaneIndex operator+(uint64_t base) const {
    LaneIndex sum;
    for (int k = 0; k < kParts; ++k) sum.part[k] = part[k] + base;
    return sum;
  }
};

// Index i * step in lane i.
template <typename A>
CONVKIT_INLINE LaneIndex<A> lane_steps(uint64_t step) {
  LaneIndex<A> index;
  for (int k = 0; k < LaneIndex<A>::kParts; ++k)
    for (int i = 0; i < kWordLanes; ++i) index.part[k][i] = static_cast<uint64_t>(i * LaneIndex<A>::kParts + k) * step;
  return index;
}

// philox_uniform in every lane.
template <typename A>
CONVKIT_INLINE Vec<A> lane_uniform(const LaneIndex<A>& index, const PhiloxKeys& keys) {
  using Bits = Vec<tap_t<A>>;
  constexpr int shift = 32 - kUniformBits;
  Words draw = philox_draw(index.part[0], keys, MultiplyVectors{}) & uint64_t{0xffffffffu};
  Bits bits;
  if constexpr (sizeof(A) == 4) {
    draw |= philox_draw(index.part[1], keys, MultiplyVectors{}) << 32;
    bits = (Bits)((Vec<uint32_t>)draw >> shift);
  } else {
    bits = (Bits)(draw >> shift);
  }
  return __builtin_convertvector(bits, Vec<A>) * (Vec<A>{} + static_cast<A>(kUniformStep));
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
