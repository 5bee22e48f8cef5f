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

// Taps [begin, end) of a window that lie inside the input along one dimension; tap t reads start + t * dilation.
struct TapRange {
  int64_t start, begin, end;
};

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

// Where window o starts, in the padding perhaps.
CONVKIT_INLINE int64_t window_start(const PoolProblem& p, int dim, int64_t o) {
  if (p.adaptive) return o * p.in.v[dim] / p.out.v[dim];
  return o * p.stride.v[dim] - p.pad_before.v[dim];
}

// Input elements per window, about: what kernels divide work by.
CONVKIT_INLINE int64_t window_step(const PoolProblem& p, int dim) {
  return p.adaptive && p.out.v[dim] > 0 ? (p.in.v[dim] + p.out.v[dim] - 1) / p.out.v[dim] : p.stride.v[dim];
}

CONVKIT_INLINE TapRange tap_range(const PoolProblem& p, int dim, int64_t o) {
  const int64_t start = window_start(p, dim, o);
  if (p.adaptive) return TapRange{start, 0, ((o + 1) * p.in.v[dim] + p.out.v[dim] - 1) / p.out.v[dim] - start};
  const int64_t dilation = p.dilation.v[dim], kernel = p.kernel.v[dim], length = p.in.v[dim];
  const int64_t begin = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  int64_t end = start >= length ? 0 : (length - start + dilation - 1) / dilation;
  if (end > kernel) end = kernel;
  return TapRange{start, begin, end < begin ? begin : end};
}

// Taps of the window clipped to the explicitly padded input [-before, L + after): what count_include_pad counts.
CONVKIT_INLINE int64_t padded_taps(const PoolProblem& p, int dim, int64_t o) {
  const int64_t start = window_start(p, dim, o);
  if (p.adaptive) return tap_range(p, dim, o).end;
  const int64_t room = p.in.v[dim] + p.pad_after.v[dim] - start;
  const int64_t dilation = p.dilation.v[dim];
  const int64_t taps = (room + dilation - 1) / dilation;
  return taps < p.kernel.v[dim] ? taps : p.kernel.v[dim];
}

// Windows [begin, end) whose span covers input position i; with dilation, only those with i - start
// divisible by it read i. Adaptive windows cover elements as elements would windows.
CONVKIT_INLINE void covering_windows(const PoolProblem& p, int dim, int64_t i, int64_t* begin, int64_t* end) {
  if (p.adaptive) {
    *begin = i * p.out.v[dim] / p.in.v[dim];
    *end = ((i + 1) * p.out.v[dim] + p.in.v[dim] - 1) / p.in.v[dim];
    return;
  }
  const int64_t shifted = i + p.pad_before.v[dim];
  const int64_t reach = p.dilation.v[dim] * (p.kernel.v[dim] - 1);
  const int64_t stride = p.stride.v[dim];
  *begin = shifted <= reach ? 0 : (shifted - reach + stride - 1) / stride;
  *end = shifted / stride + 1 < p.out.v[dim] ? shifted / stride + 1 : p.out.v[dim];
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
