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

// Neighbouring threads of a row where rows of a block share `parts`: as many rows as there are parts, but rows of 8 at
// least, which read whole sectors of memory.
inline int64_t lanes_of_rows(int64_t threads, int64_t parts) {
  int64_t lanes = threads;
  while (lanes > 8 && threads / lanes * 2 <= parts) lanes /= 2;
  return lanes;
}

// The sums over the rows of a block, `lanes` neighbouring threads being one: every thread's values become the sums of
// its column. Half of the rows are added to the other half, and so on. `scratch`: kCount elements per thread, in shared
// memory; `lanes` and the number of threads are powers of two.
template <int kCount, typename A>
CONVKIT_DEVICE void sum_rows(A (&values)[kCount], int lanes, A* scratch) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) scratch[j * threads + thread] = values[j];
  __syncthreads();
  for (int half = threads / 2; half >= lanes; half /= 2) {
    if (thread < half) {
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) scratch[j * threads + thread] += scratch[j * threads + thread + half];
    }
    __syncthreads();
  }
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) values[j] = scratch[j * threads + (thread & (lanes - 1))];
  __syncthreads();
}

}  // namespace convkit::cuda
