// From the lanes of vectors to single results: what kernels need whose vectors lie along the elements of one window.
#pragma once

#include "cpu/pool_tasks.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename A>
CONVKIT_INLINE Vec<tap_t<A>> lane_numbers() {
  Vec<tap_t<A>> v;
  for (int i = 0; i < Lanes<A>::count; ++i) v[i] = static_cast<tap_t<A>>(i);
  return v;
}

// A vector of src with `pad` from element n on.
template <typename T>
CONVKIT_INLINE Vec<pool_accumulate_t<T>> load_padded(const T* src, int64_t n, pool_accumulate_t<T> pad) {
  using A = pool_accumulate_t<T>;
  if (n >= Lanes<A>::count) return load_vec(src);
  return lane_numbers<A>() < splat<tap_t<A>>(static_cast<tap_t<A>>(n)) ? load_part(src, n) : splat<A>(pad);
}

// Of vectors a and b, whose lanes come in blocks of kWidth: the first (kHalf 0) or second halves of all blocks.
template <int kWidth, int kHalf, typename V, int... i>
CONVKIT_INLINE V half_blocks(V a, V b, std::integer_sequence<int, i...>) {
  constexpr int half = kWidth / 2;
  return __builtin_shufflevector(a, b, (i / half * kWidth + kHalf * half + i % half)...);
}

// Reduces each of the vectors to one element; of vectors v[0], v[1], ... they become the lanes of v[0].
template <typename Policy, typename A, int kWidth = Lanes<A>::count>
CONVKIT_INLINE void reduce_lanes(Vec<A>* v) {
  if constexpr (kWidth > 1) {
    for (int i = 0; i < kWidth / 2; ++i) {
      Vec<A> first = half_blocks<kWidth, 0>(v[2 * i], v[2 * i + 1], LaneNumbers<A>{});
      Policy::reduce(first, half_blocks<kWidth, 1>(v[2 * i], v[2 * i + 1], LaneNumbers<A>{}));
      v[i] = first;
    }
    reduce_lanes<Policy, A, kWidth / 2>(v);
  }
}
template <typename A, int kWidth = Lanes<A>::count>
CONVKIT_INLINE void choose_lanes(Vec<A>* v, Vec<tap_t<A>>* tap) {
  if constexpr (kWidth > 1) {
    for (int i = 0; i < kWidth / 2; ++i) {
      Vec<A> first = half_blocks<kWidth, 0>(v[2 * i], v[2 * i + 1], LaneNumbers<A>{});
      Vec<tap_t<A>> chosen = half_blocks<kWidth, 0>(tap[2 * i], tap[2 * i + 1], LaneNumbers<A>{});
      choose_by_tap(first, chosen, half_blocks<kWidth, 1>(v[2 * i], v[2 * i + 1], LaneNumbers<A>{}),
                    half_blocks<kWidth, 1>(tap[2 * i], tap[2 * i + 1], LaneNumbers<A>{}));
      v[i] = first;
      tap[i] = chosen;
    }
    choose_lanes<A, kWidth / 2>(v, tap);
  }
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
