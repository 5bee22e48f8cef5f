// Columns: max and average pooling where windows overlap along H.
//
// A thread makes kColumnWindows windows that follow each other along H. It goes down the rows that they read, reduces
// each along W once, and gives what comes out to every window that holds the row: of 3x3 windows with stride 1, 18
// loads for 4 windows instead of 36. Along w first, then h, then d keeps the order of a window wherever it matters
// (core/pool_ops.h). Sliding windows without dilation along H only.
#pragma once

#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"

namespace convkit::cuda {

constexpr int kColumnWindows = 4;

// Whether rows are shared.
inline bool columns_pay(const PoolAxes& p) {
  return !p.h.adaptive && p.h.dilation == 1 && p.h.stride < p.h.kernel && p.h.out > 1;
}

// `first`: the tap that counts where no element is greater than the identity, which may be all that a window holds.
template <typename Policy, typename A, int kCount>
CONVKIT_DEVICE void start_window(A (&value)[kCount], int32_t (&chosen)[kCount], int32_t first) {
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) {
    value[j] = Policy::template identity<A>();
    chosen[j] = first;
  }
}

// `box`: of the first window, number `first` along H.
template <typename Policy, bool kOffsets, int kColumn, int kCount, typename T, typename A>
CONVKIT_DEVICE void reduce_column(const PoolAxes& p, const Box& box, int32_t first, const T* x, int32_t base,
                                  const PlaneStrides& strides, A (&value)[kColumn][kCount],
                                  int32_t (&chosen)[kColumn][kCount]) {
  const int32_t top = window_start(p.h, first), rows = (kColumn - 1) * p.h.stride + p.h.kernel;
  const int32_t step = p.w.dilation * strides.w;
  CONVKIT_UNROLL
  for (int i = 0; i < kColumn; ++i)
    start_window<Policy>(value[i], chosen[i], first_tap(p, Box{box.d, tap_range(p.h, first + i), box.w}));
  for (int32_t a = box.d.begin; a < box.d.end; ++a)
    for (int32_t u = 0; u < rows; ++u) {
      if (static_cast<uint32_t>(top + u) >= static_cast<uint32_t>(p.h.in)) continue;
      const int32_t row =
          base + strides.at(box.d.start + a * p.d.dilation, top + u, box.w.start + box.w.begin * p.w.dilation);
      A best[kCount];
      int32_t tap[kCount];
      start_window<Policy>(best, tap, box.w.begin);
      for (int32_t s = box.w.begin; s < box.w.end; ++s) {
        const auto pack = load_pack<T, kCount>(x + (row + (s - box.w.begin) * step));
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) {
          if constexpr (kOffsets)
            Policy::choose(best[j], tap[j], load(&pack.v[j]), s);
          else
            Policy::reduce(best[j], load(&pack.v[j]));
        }
      }
      CONVKIT_UNROLL
      for (int i = 0; i < kColumn; ++i) {
        const int32_t b = u - i * p.h.stride;
        if (static_cast<uint32_t>(b) >= static_cast<uint32_t>(p.h.kernel)) continue;
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) {
          if constexpr (kOffsets)
            Policy::choose(value[i][j], chosen[i][j], best[j], p.number(a, b, tap[j]));
          else
            Policy::reduce(value[i][j], best[j]);
        }
      }
    }
}

}  // namespace convkit::cuda
