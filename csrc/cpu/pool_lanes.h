// From the lanes of vectors to single results: what kernels need whose vectors lie along the elements of one window.
#pragma once

#include "cpu/pool_tasks.h"
#include "cpu/stream.h"

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

// Neighbours in memory as a vector of partial results, and the positions in the run that they come from.
template <typename Policy, typename T, bool kOffsets>
CONVKIT_INLINE void reduce_run(const Policy& policy, const T* src, int64_t count, Vec<pool_accumulate_t<T>>* v,
                               Vec<tap_t<pool_accumulate_t<T>>>* at) {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  constexpr int lanes = Lanes<A>::count;
  const A pad = pad_value<Policy, T>();
  const auto element = [&](int64_t i) CONVKIT_INLINE_LAMBDA {
    ask_to_read(src + i);
    return policy.enter(load_vec(src + i));
  };
  const auto rest = [&](int64_t i) CONVKIT_INLINE_LAMBDA {
    const Vec<A> loaded = policy.enter(load_padded(src + i, count - i, pad));
    if constexpr (!Policy::kEntersOnce) return loaded;  // these leave padding what it is
    return lane_numbers<A>() < splat<I>(static_cast<I>(count - i)) ? loaded : splat<A>(pad);
  };
  Vec<A> best = count >= lanes ? element(0) : rest(0);  // in a register: what `v` points to lies in memory
  Vec<I> place = lane_numbers<A>();
  const auto take = [&](int64_t i, const Vec<A>& next) CONVKIT_INLINE_LAMBDA {
    if constexpr (kOffsets)
      Policy::choose(best, place, next, lane_numbers<A>() + splat<I>(static_cast<I>(i)));
    else
      Policy::reduce(best, next);
  };
  int64_t i = lanes;
  for (; i + lanes <= count; i += lanes) take(i, element(i));
  if (i < count) take(i, rest(i));
  *v = best;
  if constexpr (kOffsets) *at = place;
}

// Of a run of any length, as sums of sums: a sum's error does not grow with it.
template <typename Policy, typename T>
CONVKIT_INLINE void reduce_long_run(const Policy& policy, const T* src, int64_t count, Vec<pool_accumulate_t<T>>* v) {
  constexpr int64_t kRun = 1024 * Lanes<pool_accumulate_t<T>>::count;
  reduce_run<Policy, T, false>(policy, src, lesser(count, kRun), v, nullptr);
  for (int64_t i = kRun; i < count; i += kRun) {
    Vec<pool_accumulate_t<T>> part;
    reduce_run<Policy, T, false>(policy, src + i, lesser(count - i, kRun), &part, nullptr);
    Policy::reduce(*v, part);
  }
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
