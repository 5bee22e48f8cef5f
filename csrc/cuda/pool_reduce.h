// pool_reduce: one number of each window, by the policies of core/pool_ops.h and their like.
//
// Layout    any strides. Channels that are neighbours move in packs of 16 bytes (offsets in packs as wide); planes
//           without gaps come in bands (pool_bands.h).
// Mapping   a thread makes one element of y, or one pack of channels, in the order of y's memory; images lie along
//           blockIdx.y. Where windows overlap along H, it makes a column of them (pool_columns.h).
// Memory    windows are read through the cache, which serves what neighbouring windows share, or from shared memory
// Limits    floating dtypes; 2^31 elements of y per image, and of x per plane
#pragma once

#include "core/pool_ops.h"
#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_bands.h"
#include "cuda/pool_columns.h"
#include "cuda/pool_offsets.h"

namespace convkit::cuda {

struct Pool {
  PoolAxes axes;
  PlaneView x, y, offsets;
  int64_t offset_bytes;
};

// False if something is too wide for 32 bits.
inline bool make_pool(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                      Pool* g) {
  g->offset_bytes = offset_bytes(p);
  return narrow(p, &g->axes) && narrow(x, &g->x) && narrow(y, &g->y) && narrow(offsets, &g->offsets);
}

// A policy as threads use it: one that reads its numbers on the device has an overload of its own, and one that looks
// again at a sum, given the window's elements.
template <typename Policy>
CONVKIT_DEVICE Policy on_device(const Policy& policy) {
  return policy;
}
template <typename Policy, typename A, typename Each>
CONVKIT_DEVICE A finished(const Policy& policy, A value, const Each&) {
  return policy.finish(value);
}

// The window `at` of kCount channels, or kColumn windows from there on along H. Position e of the plane is x[base + e].
template <bool kOffsets, int kCount, int kColumn, typename T, typename Policy>
CONVKIT_DEVICE void reduce_windows_at(const Pool& g, const Policy& policy, const T* x, int32_t base,
                                      const PlaneStrides& strides, int64_t n, int64_t c, Window at) {
  using A = accumulate_t<T>;
  const PoolAxes& p = g.axes;
  A value[kColumn][kCount];
  int32_t chosen[kColumn][kCount];
  const Box box = box_of(p, at);
  if constexpr (kColumn == 1) {
    start_window<Policy>(value[0], chosen[0], first_tap(p, box));
    for_taps(p, box, strides, [&](int32_t element, int32_t tap) {
      const auto pack = load_pack<T, kCount>(x + (base + element));
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const A v = policy.enter(load(&pack.v[j]));
        if constexpr (kOffsets)
          Policy::choose(value[0][j], chosen[0][j], v, tap);
        else
          Policy::reduce(value[0][j], v);
      }
    });
  } else {
    reduce_column<Policy, kOffsets>(p, box, at.h, x, base, strides, value, chosen);
  }
  CONVKIT_UNROLL
  for (int i = 0; i < kColumn; ++i, ++at.h) {
    if (kColumn > 1 && at.h >= p.h.out) break;
    const A divisor = Policy::kDivides ? divisor_of<A>(p, at) : A(1);
    Pack<T, kCount> result;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      const A total = Policy::kDivides ? value[i][j] / divisor : value[i][j];
      if constexpr (kColumn == 1) {
        const auto each = [&](const auto& f) {
          for_taps(p, box, strides, [&](int32_t element, int32_t) { f(load(x + (base + element + j))); });
        };
        store(&result.v[j], finished(policy, total, each));
      } else {
        store(&result.v[j], total);
      }
    }
    store_pack(data<T>(g.y) + offset(g.y, n, c, at), result);
    if constexpr (kOffsets) store_offsets<kCount>(g.offsets, offset(g.offsets, n, c, at), g.offset_bytes, chosen[i]);
  }
}

template <typename Policy, typename T, bool kOffsets, int kCount, int kColumn>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks)
    pool_reduce(const Pool g, const Walk walk, const Policy given) {
  int64_t c;
  Window at;
  if (!walk.find(kCount, &c, &at)) return;
  at.h *= kColumn;
  const Policy policy = on_device(given);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y)
    reduce_windows_at<kOffsets, kCount, kColumn>(g, policy, data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC], 0,
                                                 g.x.plane, n, c, at);
}

template <typename Policy, typename T, bool kOffsets, int kColumn>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks)
    pool_bands(const Pool g, const Bands b, const Policy given) {
  const Policy policy = on_device(given);
  const Band band = Band::find<false>(g.axes, b);
  const T* x = stage_run(data<T>(g.x) + band.start(g.x, b), band.count, shared_memory());
  await_runs();
  band.for_results<false>(g.axes, b, kColumn, [&](int64_t n, int64_t c, const Window& at, int32_t base) {
    reduce_windows_at<kOffsets, 1, kColumn>(g, policy, x, base, g.x.plane, n, c, at);
  });
}

template <typename T, bool kOffsets, int kCount, int kColumn, typename Policy>
Status launch_reduce(const Pool& g, const Policy& policy) {
  const char* refusal;
  TensorView columns = g.y;
  columns.size[kH] = ceil_div(g.y.size[kH], kColumn);
  const Walk walk = walk_over(columns, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(pool_reduce<Policy, T, kOffsets, kCount, kColumn>, grid_of(walk), Pool(g), Walk(walk), Policy(policy));
}

// Whether packs of kCount channels fit all tensors.
template <typename T, bool kOffsets, int kCount>
bool pool_packs(const Pool& g) {
  return packs_fit(g.x, kCount, sizeof(T)) && packs_fit(g.y, kCount, sizeof(T)) &&
         (!kOffsets || packs_fit(g.offsets, kCount, g.offset_bytes));
}

// In packs of channels where they fit all tensors, else in bands where planes have no gaps, else element by element;
// kCount 1: always so, for policies that take longer than what they read.
template <typename T, bool kOffsets, int kColumn = 1, int kCount = kPackCount<T>, typename Policy>
Status reduce_windows(const Pool& g, const Policy& policy) {
  if constexpr (kCount > 1) {
    if (pool_packs<T, kOffsets, kCount>(g)) return launch_reduce<T, kOffsets, kCount, kColumn>(g, policy);
    Bands b;
    if (cut_bands<false>(g.axes, g.x, g.y, kColumn, sizeof(T), &b))
      return launch(pool_bands<Policy, T, kOffsets, kColumn>, grid_of(b, run_bytes(b.room, sizeof(T))), Pool(g),
                    Bands(b), Policy(policy));
  }
  return launch_reduce<T, kOffsets, 1, kColumn>(g, policy);
}

}  // namespace convkit::cuda
