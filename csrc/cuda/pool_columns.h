// pool_columns: max and average pooling where windows overlap along H.
//
// Layout    any strides. Channels that are neighbours move in packs of 16 bytes (offsets in packs as wide).
// Mapping   a thread makes kColumn windows that follow each other along H, for one channel or one pack, in the order of
//           y's memory. It goes down the rows that they read, reduces each along W once, and gives what comes out to
//           every window that holds the row: of 3x3 windows with stride 1, 18 loads for 4 windows instead of 36.
// Memory    rows are read along W by neighbouring threads, so that loads are coalesced in both layouts
// Limits    sliding windows without dilation along H; those of pool_reduce.h
//
// Along w first, then h, then d keeps the order of a window wherever it matters (core/pool_ops.h).
#pragma once

#include "cuda/pool_reduce.h"

namespace convkit::cuda {

constexpr int kColumn = 4;

// Whether rows are shared.
inline bool columns_pay(const PoolAxes& p) {
  return !p.h.adaptive && p.h.dilation == 1 && p.h.stride < p.h.kernel && p.h.out > 1;
}

template <typename Policy, typename T, bool kOffsets, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_columns(const Pool g, const Walk walk) {
  using A = accumulate_t<T>;
  const PoolAxes& p = g.axes;
  int64_t c;
  Window at;
  if (!walk.find(kCount, &c, &at)) return;
  const int32_t first = at.h * kColumn, top = window_start(p.h, first);
  const int32_t rows = (kColumn - 1) * p.h.stride + p.h.kernel;
  const Taps1d<int32_t> d = tap_range(p.d, at.d), w = tap_range(p.w, at.w);
  const int64_t step = p.w.dilation * g.x.stride[kW];
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* x = data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC] + w.start * g.x.stride[kW];
    A value[kColumn][kCount];
    int32_t chosen[kColumn][kCount];
    CONVKIT_UNROLL
    for (int i = 0; i < kColumn; ++i) {
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        value[i][j] = Policy::template identity<A>();
        chosen[i][j] = 0;
      }
    }
    for (int32_t a = d.begin; a < d.end; ++a)
      for (int32_t u = 0; u < rows; ++u) {
        if (static_cast<uint32_t>(top + u) >= static_cast<uint32_t>(p.h.in)) continue;
        const T* row = x + (d.start + a * p.d.dilation) * g.x.stride[kD] + (top + u) * g.x.stride[kH];
        A best[kCount];
        int32_t tap[kCount];
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) {
          best[j] = Policy::template identity<A>();
          tap[j] = 0;
        }
        for (int32_t s = w.begin; s < w.end; ++s) {
          const auto pack = load_pack<T, kCount>(row + s * step);
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
    CONVKIT_UNROLL
    for (int i = 0; i < kColumn; ++i) {
      const Window window{at.d, first + i, at.w};
      if (window.h >= p.h.out) continue;
      const A divisor = Policy::kDivides ? divisor_of<A>(p, window) : A(1);
      Pack<T, kCount> result;
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) store(&result.v[j], Policy::kDivides ? value[i][j] / divisor : value[i][j]);
      store_pack(data<T>(g.y) + offset(g.y, n, c, window), result);
      if constexpr (kOffsets)
        store_offsets<kCount>(g.offsets, offset(g.offsets, n, c, window), g.offset_bytes, chosen[i]);
    }
  }
}

template <typename Policy, typename T, bool kOffsets, int kCount>
Status launch_columns(const Pool& g) {
  TensorView columns = g.y;
  columns.size[kH] = ceil_div(g.y.size[kH], kColumn);
  const char* refusal;
  const Walk walk = walk_over(columns, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(pool_columns<Policy, T, kOffsets, kCount>, grid_of(walk), Pool(g), Walk(walk));
}

// In packs where they fit all tensors.
template <typename Policy, typename T, bool kOffsets>
Status reduce_columns(const Pool& g) {
  return pool_packs<T, kOffsets, kPackCount<T>>(g) ? launch_columns<Policy, T, kOffsets, kPackCount<T>>(g)
                                                   : launch_columns<Policy, T, kOffsets, 1>(g);
}

}  // namespace convkit::cuda
