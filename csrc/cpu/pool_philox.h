// Philox draws in vectors: one index per lane.
#pragma once

#include "core/philox.h"
#include "cpu/pool_vector.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kWordLanes = kVectorBytes / 8;
using Words = Simd<uint64_t, kWordLanes>::type;

// Two operands side by side, and so on: each step of a draw waits for the one before, those of others fill the gaps.
template <typename W>
struct Both {
  W first, second;
};
template <typename W>
CONVKIT_INLINE Both<W> operator^(const Both<W>& a, const Both<W>& b) {
  return {a.first ^ b.first, a.second ^ b.second};
}
template <typename W>
CONVKIT_INLINE Both<W> operator^(const Both<W>& a, uint64_t b) {
  return {a.first ^ b, a.second ^ b};
}
template <typename W>
CONVKIT_INLINE Both<W> operator>>(const Both<W>& a, int bits) {
  return {a.first >> bits, a.second >> bits};
}
template <typename W>
CONVKIT_INLINE Both<W> operator+(const Both<W>& a, uint64_t b) {
  return {a.first + b, a.second + b};
}

struct MultiplyVectors {
  template <typename W>
  CONVKIT_INLINE Both<W> operator()(const Both<W>& a, uint32_t m) const {
    return {(*this)(a.first, m), (*this)(a.second, m)};
  }
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

// The indices of a Vec<A>'s lanes, each in the 64 bits that its draw is computed in: all of them, or (float) those of
// the even and those of the odd lanes.
template <typename A>
struct LaneWords {
  using type = Words;
};
template <>
struct LaneWords<float> {
  using type = Both<Words>;
};
template <typename A>
using lane_words_t = typename LaneWords<A>::type;

CONVKIT_INLINE void set_lane(Words& words, int64_t lane, uint64_t index) { words[lane] = index; }
CONVKIT_INLINE void set_lane(Both<Words>& words, int64_t lane, uint64_t index) {
  set_lane(lane % 2 == 0 ? words.first : words.second, lane / 2, index);
}

// Index i * step in lane i.
template <typename A>
CONVKIT_INLINE lane_words_t<A> lane_steps(uint64_t step) {
  lane_words_t<A> words{};
  for (int i = 0; i < Lanes<A>::count; ++i) set_lane(words, i, static_cast<uint64_t>(i) * step);
  return words;
}

// Draws, as philox_draw leaves them, to numbers in [0, 1).
constexpr int kUnusedBits = 32 - kUniformBits;
CONVKIT_INLINE Vec<float> uniform_lanes(const Both<Words>& draw) {
  const Words words = (draw.first & uint64_t{0xffffffffu}) | (draw.second << 32);
  return __builtin_convertvector((Vec<int32_t>)((Vec<uint32_t>)words >> kUnusedBits), Vec<float>) *
         (Vec<float>{} + kUniformStep);
}
CONVKIT_INLINE Vec<double> uniform_lanes(const Words& draw) {
  return __builtin_convertvector((Vec<int64_t>)((draw & uint64_t{0xffffffffu}) >> kUnusedBits), Vec<double>) *
         (Vec<double>{} + static_cast<double>(kUniformStep));
}

// The draws of `count` windows, in whole vectors; index(i) names those of the vector from window i on. Two vectors at a
// time keep both of AVX-512's multipliers busy; fewer registers hold one.
template <typename A, typename Index>
CONVKIT_INLINE void draw_row(int64_t count, const Index& index, const PhiloxKeys& keys, A* to) {
  constexpr int64_t lanes = Lanes<A>::count;
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + lanes < count; i += 2 * lanes) {
    const Both<lane_words_t<A>> two{index(i), index(i + lanes)};
    const auto draw = philox_draw(two, keys, MultiplyVectors{});
    store_vec(to + i, uniform_lanes(draw.first));
    store_vec(to + i + lanes, uniform_lanes(draw.second));
  }
#endif
  for (; i < count; i += lanes) store_vec(to + i, uniform_lanes(philox_draw(index(i), keys, MultiplyVectors{})));
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
