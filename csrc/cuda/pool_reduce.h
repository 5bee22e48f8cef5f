// pool_reduce: one number of each window, by the policies of core/pool_ops.h and their like.
//
// Layout    any strides. Channels that are neighbours move in packs of 16 bytes (offsets in packs as wide).
// Mapping   a thread makes one element of y, or one pack of channels, in the order of y's memory; images lie along
//           blockIdx.y
// Memory    windows are read through the cache, which serves what neighbouring windows share
// Limits    floating dtypes; 2^31 elements of y per image
#pragma once

#include "core/pool_ops.h"
#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_offsets.h"

namespace convkit::cuda {

struct Pool {
  PoolAxes axes;
  TensorView x, y, offsets;
  int64_t offset_bytes;
};

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

template <typename Policy, typename T, bool kOffsets, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks)
    pool_reduce(const Pool g, const Walk walk, const Policy given) {
  using A = accumulate_t<T>;
  const PoolAxes& p = g.axes;
  int64_t c;
  Window window;
  if (!walk.find(kCount, &c, &window)) return;
  const Policy policy = on_device(given);
  const Box box = box_of(p, window);
  const A divisor = Policy::kDivides ? divisor_of<A>(p, window) : A(1);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* x = data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC];
    A value[kCount];
    int32_t chosen[kCount];
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      value[j] = Policy::template identity<A>();
      chosen[j] = 0;
    }
    for_taps(p, box, g.x, [&](int64_t element, int32_t tap) {
      const auto pack = load_pack<T, kCount>(x + element);
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const A v = policy.enter(load(&pack.v[j]));
        if constexpr (kOffsets)
          Policy::choose(value[j], chosen[j], v, tap);
        else
          Policy::reduce(value[j], v);
      }
    });
    Pack<T, kCount> result;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      const auto each = [&](const auto& f) {
        for_taps(p, box, g.x, [&](int64_t element, int32_t) { f(load(x + element + j)); });
      };
      store(&result.v[j], finished(policy, Policy::kDivides ? value[j] / divisor : value[j], each));
    }
    store_pack(data<T>(g.y) + offset(g.y, n, c, window), result);
    if constexpr (kOffsets) store_offsets<kCount>(g.offsets, offset(g.offsets, n, c, window), g.offset_bytes, chosen);
  }
}

template <typename T, bool kOffsets, int kCount, typename Policy>
Status launch_reduce(const Pool& g, const Policy& policy) {
  const char* refusal;
  const Walk walk = walk_over(g.y, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(pool_reduce<Policy, T, kOffsets, kCount>, grid_of(walk), Pool(g), Walk(walk), Policy(policy));
}

// Whether packs of kCount channels fit all tensors.
template <typename T, bool kOffsets, int kCount>
bool pool_packs(const Pool& g) {
  return packs_fit(g.x, kCount, sizeof(T)) && packs_fit(g.y, kCount, sizeof(T)) &&
         (!kOffsets || packs_fit(g.offsets, kCount, g.offset_bytes));
}

template <typename T, bool kOffsets, int kCount = kPackCount<T>, typename Policy>
Status reduce_windows(const Pool& g, const Policy& policy) {
  return pool_packs<T, kOffsets, kCount>(g) ? launch_reduce<T, kOffsets, kCount>(g, policy)
                                            : launch_reduce<T, kOffsets, 1>(g, policy);
}

}  // namespace convkit::cuda
