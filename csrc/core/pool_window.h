// What kernels of all devices do with the windows of a pooling: count their elements, find an element's readers, keep
// window offsets.
#pragma once

#include "core/pool_problem.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// What one dimension of a window counts in the divisor; never 0 (a dilated window can miss the input).
template <typename I>
CONVKIT_INLINE I divisor_taps(const WindowAxis<I>& a, bool count_include_pad, I o) {
  const Taps1d<I> t = tap_range(a, o);
  const I taps = count_include_pad ? padded_taps(a, o) : t.end - t.begin;
  return taps > 1 ? taps : 1;
}
CONVKIT_INLINE int64_t divisor_taps(const PoolProblem& p, int dim, int64_t o) {
  if (p.divisor_override != 0) return dim == 0 ? p.divisor_override : 1;
  return divisor_taps(window_axis(p, dim), p.count_include_pad, o);
}

// Calls f(o, t) for every window o that reads input position i, through its tap t.
template <typename I, typename F>
CONVKIT_INLINE void for_readers(const WindowAxis<I>& a, I i, const F& f) {
  I begin, end;
  covering_windows(a, i, &begin, &end);
  for (I o = begin; o < end; ++o) {
    const I distance = i - window_start(a, o);
    if (distance % a.dilation == 0) f(o, distance / a.dilation);
  }
}
template <typename F>
CONVKIT_INLINE void for_readers(const PoolProblem& p, int dim, int64_t i, const F& f) {
  for_readers(window_axis(p, dim), i, f);
}

// Window offsets of 1, 2 or 4 bytes.
CONVKIT_INLINE int64_t load_tap(const void* base, int64_t at, int64_t bytes) {
  if (bytes == 1) return static_cast<const uint8_t*>(base)[at];
  if (bytes == 2) return static_cast<const int16_t*>(base)[at];
  return static_cast<const int32_t*>(base)[at];
}
CONVKIT_INLINE void store_tap(void* base, int64_t at, int64_t bytes, int64_t tap) {
  if (bytes == 1)
    static_cast<uint8_t*>(base)[at] = static_cast<uint8_t>(tap);
  else if (bytes == 2)
    static_cast<int16_t*>(base)[at] = static_cast<int16_t>(tap);
  else
    static_cast<int32_t*>(base)[at] = static_cast<int32_t>(tap);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
