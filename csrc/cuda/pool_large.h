// pool_large: windows of many elements, of which there are too few for a thread each.
//
// Computes  what pool_reduce.h computes, by policies whose partial results can be merged
// Layout    any strides; channels that are neighbours in packs of 16 bytes, where these fit all tensors
// Mapping   a block makes the windows at one position: of one channel, or of up to 32 channels (packs of them) that are
//           neighbours, a thread each. Rows of such threads take the elements in turn, and merge what they have in
//           halves; where the order matters, tap numbers decide.
// Memory    each element is read once; shared memory holds a number, and its tap, per thread and channel
// Limits    as pool_reduce.h
#pragma once

#include "cuda/pool_reduce.h"

namespace convkit::cuda {

constexpr int kLargeThreads = 256;
// Elements that keep a block busy, and threads of pool_reduce.h from which on a GPU has enough of them.
constexpr int64_t kLargeWindow = 256, kFewThreads = 1 << 16;

struct LargeGrid {
  Divider tiles, w, h;  // block -> (tile of channels, position)
  int32_t lanes;        // neighbouring threads, a power of two
  int64_t images;
};

// Calls f(element, tap) for the elements first, first + step, ... of a window, counted in row-major order.
template <typename F>
CONVKIT_DEVICE void for_taps_in_turn(const PoolAxes& p, const Box& box, const PlaneStrides& x, int32_t first,
                                     int32_t step, const F& f) {
  const int32_t d = box.d.end - box.d.begin, h = box.h.end - box.h.begin, w = box.w.end - box.w.begin;
  if (d <= 0 || h <= 0 || w <= 0) return;
  int32_t s = first % w, b = first / w % h, a = first / w / h;
  const int32_t next_s = step % w, next_b = step / w % h, next_a = step / w / h;
  while (a < d) {
    const int32_t in_d = box.d.begin + a, in_h = box.h.begin + b, in_w = box.w.begin + s;
    f(x.at(box.d.start + in_d * p.d.dilation, box.h.start + in_h * p.h.dilation, box.w.start + in_w * p.w.dilation),
      p.number(in_d, in_h, in_w));
    s += next_s;
    b += next_b;
    a += next_a;
    if (s >= w) s -= w, ++b;
    if (b >= h) b -= h, ++a;
  }
}

// The values of row 0 become those of all rows; `scratch`: kCount values, then kCount taps, per thread.
template <typename Policy, bool kOffsets, typename A, int kCount>
CONVKIT_DEVICE void merge_rows(A (&value)[kCount], int32_t (&chosen)[kCount], int lanes, void* scratch) {
  const int thread = static_cast<int>(threadIdx.x);
  A* values = static_cast<A*>(scratch);
  int32_t* taps = reinterpret_cast<int32_t*>(values + kCount * kLargeThreads);
  const auto keep = [&] {
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      values[j * kLargeThreads + thread] = value[j];
      if (kOffsets) taps[j * kLargeThreads + thread] = chosen[j];
    }
  };
  keep();
  __syncthreads();
  for (int half = kLargeThreads / 2; half >= lanes; half /= 2) {
    if (thread < half) {
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const int other = j * kLargeThreads + thread + half;
        if constexpr (kOffsets)
          choose_by_tap(value[j], chosen[j], values[other], taps[other]);
        else
          Policy::reduce(value[j], values[other]);
      }
      keep();
    }
    __syncthreads();
  }
}

template <typename Policy, typename T, bool kOffsets, int kCount>
__global__ void __launch_bounds__(kLargeThreads) pool_large(const Pool g, const LargeGrid grid) {
  using A = accumulate_t<T>;
  constexpr int32_t kNone = 0x7fffffff;  // the tap of a row that has no element: that of row 0 comes before it
  const PoolAxes& p = g.axes;
  const int32_t row = static_cast<int32_t>(threadIdx.x) / grid.lanes,
                lane = static_cast<int32_t>(threadIdx.x) % grid.lanes;
  int32_t rest = static_cast<int32_t>(blockIdx.x);
  const int64_t c = (static_cast<int64_t>(grid.tiles.take(&rest)) * grid.lanes + lane) * kCount;
  Window at;
  at.w = grid.w.take(&rest);
  at.h = grid.h.take(&rest);
  at.d = rest;
  const bool live = c < g.y.size[kC];
  const Box box = box_of(p, at);
  for (int64_t n = blockIdx.y; n < grid.images; n += gridDim.y) {
    const T* x = data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC];
    A value[kCount];
    int32_t chosen[kCount];
    start_window<Policy>(value, chosen, row == 0 ? first_tap(p, box) : kNone);
    if (live)
      for_taps_in_turn(p, box, g.x.plane, row, kLargeThreads / grid.lanes, [&](int32_t element, int32_t tap) {
        const auto pack = load_pack<T, kCount>(x + element);
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) {
          const A v = load(&pack.v[j]);
          if constexpr (kOffsets)
            choose_by_tap(value[j], chosen[j], v, tap);
          else
            Policy::reduce(value[j], v);
        }
      });
    merge_rows<Policy, kOffsets>(value, chosen, grid.lanes, shared_memory());
    if (live && row == 0) {
      const A divisor = Policy::kDivides ? divisor_of<A>(p, at) : A(1);
      Pack<T, kCount> result;
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) store(&result.v[j], Policy::kDivides ? value[j] / divisor : value[j]);
      store_pack(data<T>(g.y) + offset(g.y, n, c, at), result);
      if constexpr (kOffsets) store_offsets<kCount>(g.offsets, offset(g.offsets, n, c, at), g.offset_bytes, chosen);
    }
  }
}

inline bool large_windows_pay(const Pool& g) {
  const int64_t taps = int64_t{g.axes.d.kernel} * g.axes.h.kernel * g.axes.w.kernel;
  return taps >= kLargeWindow && numel(g.y) / pack_count(g.y.dtype) < kFewThreads;
}

template <typename Policy, typename T, bool kOffsets, int kCount>
Status launch_large(const Pool& g) {
  const int64_t packs = g.y.size[kC] / kCount, positions = g.y.size[kD] * g.y.size[kH] * g.y.size[kW];
  const bool neighbours = kCount > 1 || (g.x.stride[kC] == 1 && packs > 1);
  int64_t lanes = 1;
  while (neighbours && lanes < kWarpLanes && lanes < packs) lanes *= 2;
  const int64_t tiles = ceil_div(packs, lanes);
  LargeGrid grid{Divider(tiles), Divider(g.y.size[kW]), Divider(g.y.size[kH]), static_cast<int32_t>(lanes),
                 g.y.size[kN]};
  constexpr size_t kBytes = kLargeThreads * kCount * (sizeof(accumulate_t<T>) + (kOffsets ? sizeof(int32_t) : 0));
  const int64_t images = g.y.size[kN] < kMostBlocksY ? g.y.size[kN] : kMostBlocksY;
  return launch(pool_large<Policy, T, kOffsets, kCount>,
                Grid{blocks(tiles * positions, images), threads(kLargeThreads), kBytes}, Pool(g), LargeGrid(grid));
}

template <typename T, bool kOffsets, typename Policy>
Status reduce_large(const Pool& g, const Policy&) {
  if (pool_packs<T, kOffsets, kPackCount<T>>(g)) return launch_large<Policy, T, kOffsets, kPackCount<T>>(g);
  return launch_large<Policy, T, kOffsets, 1>(g);
}

}  // namespace convkit::cuda
