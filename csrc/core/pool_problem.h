// One sliding-window pooling, and its window mathematics.
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

CONVKIT_INLINE TapRange tap_range(const PoolProblem& p, int dim, int64_t o) {
  const int64_t start = o * p.stride.v[dim] - p.pad_before.v[dim];
  const int64_t dilation = p.dilation.v[dim], kernel = p.kernel.v[dim], length = p.in.v[dim];
  const int64_t begin = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  int64_t end = start >= length ? 0 : (length - start + dilation - 1) / dilation;
  if (end > kernel) end = kernel;
  return TapRange{start, begin, end < begin ? begin : end};
}

// Taps of the window clipped to the explicitly padded input [-before, L + after): what count_include_pad counts.
CONVKIT_INLINE int64_t padded_taps(const PoolProblem& p, int dim, int64_t o) {
  const int64_t start = o * p.stride.v[dim] - p.pad_before.v[dim];
  const int64_t room = p.in.v[dim] + p.pad_after.v[dim] - start;
  const int64_t dilation = p.dilation.v[dim];
  const int64_t taps = (room + dilation - 1) / dilation;
  return taps < p.kernel.v[dim] ? taps : p.kernel.v[dim];
}

// Windows [begin, end) whose span covers input position i; with dilation, only those with i - start
// divisible by it read i.
CONVKIT_INLINE void covering_windows(const PoolProblem& p, int dim, int64_t i, int64_t* begin, int64_t* end) {
  const int64_t shifted = i + p.pad_before.v[dim];
  const int64_t reach = p.dilation.v[dim] * (p.kernel.v[dim] - 1);
  const int64_t stride = p.stride.v[dim];
  *begin = shifted <= reach ? 0 : (shifted - reach + stride - 1) / stride;
  *end = shifted / stride + 1 < p.out.v[dim] ? shifted / stride + 1 : p.out.v[dim];
}

// Bytes of one window offset; the Python twin is problem.offset_bytes.
CONVKIT_INLINE int64_t offset_bytes(const PoolProblem& p) {
  const int64_t window = volume(p.kernel);
  return window <= 256 ? 1 : window <= 32768 ? 2 : 4;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
