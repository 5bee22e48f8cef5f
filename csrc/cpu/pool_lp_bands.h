// Bands of rows in scratch memory: what a channels_last kernel makes once of each element before windows read it.
#pragma once

#include "cpu/pool_tasks.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Whether neighbouring windows read the same elements of one plane: only then is it worth keeping what is made of them.
CONVKIT_INLINE bool bands_pay(const PoolProblem& p) {
  if (p.in[0] != 1 || p.kernel[0] != 1 || p.out[0] != 1) return false;
  return p.stride[1] < p.kernel[1] || p.stride[2] < p.kernel[2];
}

struct RowBands {
  int64_t rows, count;
};

// `total` rows in bands of as many as fit a cache with the rows they read, `step` of row_bytes each.
CONVKIT_INLINE RowBands row_bands(int64_t total, int64_t step, int64_t row_bytes) {
  constexpr int64_t kBandBytes = 1 << 18;
  const int64_t rows = lesser(total, greater(4, kBandBytes / greater(1, step * row_bytes)));
  return {rows, ceil_div(total, rows)};
}

// `t` as if rows [first, ...) of one image lay at `band`, dense, channels fastest; row numbers stay the tensor's.
template <typename T>
CONVKIT_INLINE TensorView rows_view(const TensorView& t, T* band, int64_t first, int64_t width, int64_t channels) {
  TensorView v = t;
  v.data = band - first * width * channels;
  v.stride[kN] = v.stride[kD] = 0;
  v.stride[kC] = 1;
  v.stride[kW] = channels;
  v.stride[kH] = width * channels;
  return v;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
