// One pooling, and its window mathematics: where windows start, what they hold, and which of them read an element.
//
// Sliding windows all have the kernel's size. Adaptive windows are cut from the sizes of input and output: window o of
// O over a length L is [floor(o L / O), ceil((o + 1) L / O)), and the kernel is the size of the largest of them, so
// that tap t of window o is its element t and window offsets are numbered alike in all windows.
#pragma once

#include "core/spatial.h"

namespace convkit {

struct PoolProblem {
  int64_t n, c;
  Spatial in;      // D H W
  Spatial kernel;  // T R S
  Spatial out;     // O P Q
  Spatial stride, pad_before, pad_after, dilation;
  bool ceil_mode, count_include_pad;
  int64_t divisor_override;  // 0: none
  bool adaptive;             // stride and dilation are then 1, and there is no padding
};

// One dimension of it, in the integers that a kernel counts in: I holds every position and its padding.
template <typename I>
struct WindowAxis {
  I in, kernel, out, stride, before, after, dilation;
  bool adaptive;
};

// Taps [begin, end) of a window that lie inside the input along one dimension; tap t reads start + t * dilation.
template <typename I>
struct Taps1d {
  I start, begin, end;
};
using TapRange = Taps1d<int64_t>;

inline namespace CONVKIT_ISA {

// floor or ceil of (L + before + after - d(k-1) - 1) / s, plus 1; in ceil mode a window that would start
// at or beyond L + before is dropped.
CONVKIT_INLINE int64_t pool_output_size(int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after,
                                        int64_t dilation, bool ceil_mode) {
  const int64_t span = length + before + after - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
  if (span < 0) return 0;
  int64_t count = span / stride + 1;
  if (ceil_mode && (count - 1) * stride >= length + before) --count;
  return count;
}

// The size of the largest adaptive window: L / O if that is whole. Else window o starts (o L mod O) / O of an element
// late, a multiple of g / O with g = gcd(L mod O, O), and the latest one ends in one element more, or in two.
CONVKIT_INLINE int64_t largest_window(int64_t length, int64_t out) {
  if (out == 0) return 1;
  const int64_t rest = length % out;
  return length / out + (rest == 0 ? 0 : out % rest == 0 ? 1 : 2);
}

template <typename I = int64_t>
CONVKIT_INLINE WindowAxis<I> window_axis(const PoolProblem& p, int dim) {
  return WindowAxis<I>{static_cast<I>(p.in.v[dim]),         static_cast<I>(p.kernel.v[dim]),
                       static_cast<I>(p.out.v[dim]),        static_cast<I>(p.stride.v[dim]),
                       static_cast<I>(p.pad_before.v[dim]), static_cast<I>(p.pad_after.v[dim]),
                       static_cast<I>(p.dilation.v[dim]),   p.adaptive};
}

// floor(o a / b), whatever the size of the product.
template <typename I>
CONVKIT_INLINE I scaled_down(I o, I a, I b) {
  return static_cast<I>(static_cast<int64_t>(o) * a / b);
}
template <typename I>
CONVKIT_INLINE I scaled_up(I o, I a, I b) {
  return static_cast<I>((static_cast<int64_t>(o) * a + b - 1) / b);
}

// Where window o starts, in the padding perhaps.
template <typename I>
CONVKIT_INLINE I window_start(const WindowAxis<I>& a, I o) {
  return a.adaptive ? scaled_down(o, a.in, a.out) : o * a.stride - a.before;
}
CONVKIT_INLINE int64_t window_start(const PoolProblem& p, int dim, int64_t o) {
  return window_start(window_axis(p, dim), o);
}

// Input elements per window, about: what kernels divide work by.
CONVKIT_INLINE int64_t window_step(const PoolProblem& p, int dim) {
  return p.adaptive && p.out.v[dim] > 0 ? (p.in.v[dim] + p.out.v[dim] - 1) / p.out.v[dim] : p.stride.v[dim];
}

template <typename I>
CONVKIT_INLINE Taps1d<I> tap_range(const WindowAxis<I>& a, I o) {
  const I start = window_start(a, o);
  if (a.adaptive) return Taps1d<I>{start, 0, scaled_up(o + 1, a.in, a.out) - start};
  const I begin = start >= 0 ? 0 : (-start + a.dilation - 1) / a.dilation;
  I end = start >= a.in ? 0 : (a.in - start + a.dilation - 1) / a.dilation;
  if (end > a.kernel) end = a.kernel;
  return Taps1d<I>{start, begin, end < begin ? begin : end};
}
CONVKIT_INLINE TapRange tap_range(const PoolProblem& p, int dim, int64_t o) {
  return tap_range(window_axis(p, dim), o);
}

// Taps of the window clipped to the explicitly padded input [-before, L + after): what count_include_pad counts.
template <typename I>
CONVKIT_INLINE I padded_taps(const WindowAxis<I>& a, I o) {
  if (a.adaptive) return tap_range(a, o).end;
  const I taps = (a.in + a.after - window_start(a, o) + a.dilation - 1) / a.dilation;
  return taps < a.kernel ? taps : a.kernel;
}
CONVKIT_INLINE int64_t padded_taps(const PoolProblem& p, int dim, int64_t o) {
  return padded_taps(window_axis(p, dim), o);
}

// Windows [begin, end) whose span covers input position i; with dilation, only those with i - start
// divisible by it read i. Adaptive windows cover elements as elements would windows.
template <typename I>
CONVKIT_INLINE void covering_windows(const WindowAxis<I>& a, I i, I* begin, I* end) {
  if (a.adaptive) {
    *begin = scaled_down(i, a.out, a.in);
    *end = scaled_up(i + 1, a.out, a.in);
    return;
  }
  const I shifted = i + a.before, reach = a.dilation * (a.kernel - 1);
  *begin = shifted <= reach ? 0 : (shifted - reach + a.stride - 1) / a.stride;
  *end = shifted / a.stride + 1 < a.out ? shifted / a.stride + 1 : a.out;
}
CONVKIT_INLINE void covering_windows(const PoolProblem& p, int dim, int64_t i, int64_t* begin, int64_t* end) {
  covering_windows(window_axis(p, dim), i, begin, end);
}

// How many windows at most cover one position.
CONVKIT_INLINE int64_t most_covering(const PoolProblem& p, int dim) {
  if (p.adaptive) return p.out.v[dim] == 0 ? 1 : largest_window(p.out.v[dim], p.in.v[dim]);
  return (p.kernel.v[dim] - 1) * p.dilation.v[dim] / p.stride.v[dim] + 1;
}

// Bytes of one window offset, whose last value (255, or -1 in signed types) means "none"; the Python twin is
// problem.offset_bytes.
CONVKIT_INLINE int64_t offset_bytes(const PoolProblem& p) {
  const int64_t window = volume(p.kernel);
  return window <= 255 ? 1 : window <= 32768 ? 2 : 4;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
