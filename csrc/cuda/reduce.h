// Sums over a block, in an order that depends on nothing but the number of threads.
#pragma once

#include "cuda/device/platform.h"

namespace convkit::cuda {

// The sum of `value` over the 32 lanes, in every lane.
template <typename A>
CONVKIT_DEVICE A sum_warp(A value) {
  CONVKIT_UNROLL
  for (int distance = kWarpLanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// The sums over the block of kCount values each: sum j in thread j. `scratch`: kCount elements per warp, in shared
// memory. Every thread of the block calls it, and there are at least kCount of them, in whole warps.
template <int kCount, typename A>
CONVKIT_DEVICE A sum_block(const A (&values)[kCount], A* scratch) {
  const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / kWarpLanes;
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) {
    const A sum = sum_warp(values[j]);
    if (thread % kWarpLanes == 0) scratch[thread / kWarpLanes * kCount + j] = sum;
  }
  __syncthreads();
  A total = 0;
  if (thread < kCount)
    for (int warp = 0; warp < warps; ++warp) total += scratch[warp * kCount + thread];
  return total;
}

}  // namespace convkit::cuda
