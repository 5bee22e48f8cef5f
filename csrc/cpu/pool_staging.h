// Rows between tensors and the row engines' buffers.
//
// A staged row is split by phase: element a (counted from the start of window 0) lies in phase a % s at
// position a / s. The taps of neighbouring windows are then neighbours in memory whatever the stride, so that
// every inner loop is plain vector loads.
#pragma once

#include "cpu/pool_tasks.h"
#include "cpu/stream.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Up to this stride rows are split and joined by shuffles; beyond, engines that need no phases are faster.
constexpr int64_t kShuffledStride = 3;

// to[i] = what w contributes to the divisor of window first + i. Of sliding windows all but some at the ends are whole,
// and need no clipping, which costs more than adding a window up.
template <typename A>
CONVKIT_INLINE void fill_divisors(const PoolProblem& p, int64_t first, int64_t count, A* to) {
  const int64_t whole = p.divisor_override != 0 ? 1 : p.kernel[2];
  int64_t begin = 0, end = count;
  const auto clipped = [&](int64_t i) {
    const int64_t taps = divisor_taps(p, 2, first + i);
    to[i] = static_cast<A>(taps);
    return taps != whole || p.adaptive;
  };
  while (begin < end && clipped(begin)) ++begin;
  while (begin < end && clipped(end - 1)) --end;
  for (int64_t i = begin; i < end; ++i) to[i] = static_cast<A>(whole);
}

// Where element `at` of a staged row lies.
CONVKIT_INLINE int64_t staged_place(int64_t at, int64_t s, int64_t pitch) { return at % s * pitch + at / s; }

// Elements src[0], src[stride], ... (n of them) become elements at, at + 1, ... of a staged row.
template <typename T>
CONVKIT_INLINE void stage_row(const T* src, int64_t stride, int64_t n, int64_t at, int64_t s, int64_t phases,
                              int64_t pitch, pool_accumulate_t<T>* dst) {
  using A = pool_accumulate_t<T>;
  constexpr int64_t lanes = Lanes<A>::count;
  if (stride == 1) ask_to_read(src, n);
  if (s == 1 && stride == 1) {
    dst += at;
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store_vec(dst + i, load_vec(src + i));
    if (i < n) store_part(dst + i, load_part(src + i, n - i), n - i);
    return;
  }
  if (s == 2 && phases == 2 && stride == 1) {
    // Where elements 0, 2, ... and 1, 3, ... go: of an odd `at` the former lie in the second phase.
    A *even = dst + staged_place(at, 2, pitch), *odd = dst + staged_place(at + 1, 2, pitch);
    int64_t i = 0;
    for (; 2 * (i + lanes) <= n; i += lanes) {
      const auto a = load_vec(src + 2 * i), b = load_vec(src + 2 * i + lanes);
      store_vec(even + i, every_second<0>(a, b, LaneNumbers<A>{}));
      store_vec(odd + i, every_second<1>(a, b, LaneNumbers<A>{}));
    }
    const int64_t rest = n - 2 * i;
    if (rest > 0) {
      const auto a = rest >= lanes ? load_vec(src + 2 * i) : load_part(src + 2 * i, rest);
      const auto b = rest > lanes ? load_part(src + 2 * i + lanes, rest - lanes) : Vec<A>{};
      store_part(even + i, every_second<0>(a, b, LaneNumbers<A>{}), (rest + 1) / 2);
      store_part(odd + i, every_second<1>(a, b, LaneNumbers<A>{}), rest / 2);
    }
    return;
  }
  if (s == 3 && phases == 3 && stride == 1) {
    A *first = dst + staged_place(at, 3, pitch), *second = dst + staged_place(at + 1, 3, pitch),
      *third = dst + staged_place(at + 2, 3, pitch);
    int64_t i = 0;
    for (; 3 * (i + lanes) <= n; i += lanes) {
      const T* from = src + 3 * i;
      const auto a = load_vec(from), b = load_vec(from + lanes), c = load_vec(from + 2 * lanes);
      store_vec(first + i, every_third<0>(a, b, c, LaneNumbers<A>{}));
      store_vec(second + i, every_third<1>(a, b, c, LaneNumbers<A>{}));
      store_vec(third + i, every_third<2>(a, b, c, LaneNumbers<A>{}));
    }
    src += 3 * i, at += 3 * i, n -= 3 * i;  // the rest below
  }
  for (int64_t phase = 0; phase < phases; ++phase) {
    int64_t i = (phase - at % s + s) % s;
    A* to = dst + phase * pitch + (at + i) / s;
    for (; i < n; i += s) *to++ = load_one(src + i * stride);
  }
}

// Calls f(position, count) for each run of neighbours that stage_row's elements fill.
template <typename A, typename F>
CONVKIT_INLINE void for_staged(int64_t n, int64_t at, int64_t s, int64_t phases, int64_t pitch, const F& f) {
  for (int64_t phase = 0; phase < phases; ++phase) {
    const int64_t first = (phase - at % s + s) % s;
    if (first < n) f(phase * pitch + (at + first) / s, (n - first + s - 1) / s);
  }
}

// The way back: elements at, at + 1, ... (n of them) of a row split into all s phases go to dst[0], dst[stride], ...
template <typename T>
CONVKIT_INLINE void unstage_row(const pool_accumulate_t<T>* src, int64_t pitch, int64_t s, int64_t at, int64_t n,
                                T* dst, int64_t stride) {
  using A = pool_accumulate_t<T>;
  constexpr int64_t lanes = Lanes<A>::count;
  if (stride == 1) ask_to_write(dst, n);
  if (s == 1 && stride == 1) {
    for (int64_t i = 0; i < n; i += lanes) store_up_to(dst + i, load_vec(src + at + i), n - i);
    return;
  }
  if (s == 2 && stride == 1) {
    const A *even = src + staged_place(at, 2, pitch), *odd = src + staged_place(at + 1, 2, pitch);
    for (int64_t i = 0; 2 * i < n; i += lanes) {
      const auto a = load_vec(even + i), b = load_vec(odd + i);
      store_up_to(dst + 2 * i, zipped<0>(a, b, LaneNumbers<A>{}), n - 2 * i);
      if (n - 2 * i > lanes) store_up_to(dst + 2 * i + lanes, zipped<1>(a, b, LaneNumbers<A>{}), n - 2 * i - lanes);
    }
    return;
  }
  if (s == 3 && stride == 1) {
    const A *first = src + staged_place(at, 3, pitch), *second = src + staged_place(at + 1, 3, pitch),
            *third = src + staged_place(at + 2, 3, pitch);
    int64_t i = 0;
    for (; 3 * (i + lanes) <= n; i += lanes) {
      T* to = dst + 3 * i;
      const auto a = load_vec(first + i), b = load_vec(second + i), c = load_vec(third + i);
      store_vec(to, zipped_three<0>(a, b, c, LaneNumbers<A>{}));
      store_vec(to + lanes, zipped_three<1>(a, b, c, LaneNumbers<A>{}));
      store_vec(to + 2 * lanes, zipped_three<2>(a, b, c, LaneNumbers<A>{}));
    }
    dst += 3 * i, at += 3 * i, n -= 3 * i;
  }
  for (int64_t phase = 0; phase < s; ++phase) {
    int64_t i = (phase - at % s + s) % s;
    const A* from = src + phase * pitch + (at + i) / s;
    for (; i < n; i += s) store_one(dst + i * stride, *from++);
  }
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
