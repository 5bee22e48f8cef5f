// The GPU's language: NVIDIA's under nvcc, simt_emulator's stand-in under a C++ compiler.
#pragma once

#include <cuda_runtime.h>

#include "core/macros.h"

#define CONVKIT_DEVICE __device__ __forceinline__

#ifdef __CUDACC__
#define CONVKIT_UNROLL _Pragma("unroll")
#define CONVKIT_NO_UNROLL _Pragma("unroll 1")
#define CONVKIT_RESTRICT __restrict__
#else
#define CONVKIT_UNROLL
#define CONVKIT_NO_UNROLL
#define CONVKIT_RESTRICT
#endif

namespace convkit::cuda {

constexpr int kWarpLanes = 32;

// The dynamic shared memory of the block, 128-byte aligned: all shared memory of a kernel is carved from it, so that
// the emulator can fill it with NaN before each block.
#ifdef __CUDACC__
extern __shared__ __align__(128) char dynamic_shared[];
CONVKIT_DEVICE void* shared_memory() { return dynamic_shared; }
#else
inline void* shared_memory() { return simt::shared_memory(); }
#endif

}  // namespace convkit::cuda
