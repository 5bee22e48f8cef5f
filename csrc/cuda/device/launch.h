// Launching kernels on the caller's stream: the only place that does.
#pragma once

#include "core/status.h"
#include "cuda/device/platform.h"
#include "cuda/device/runtime.h"

namespace convkit::cuda {

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
};

constexpr int64_t kMostBlocksX = 0x7fffffff, kMostBlocksY = 65535;  // as Y along Z

inline dim3 blocks(int64_t x, int64_t y = 1, int64_t z = 1) {
  return dim3{static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
}
inline dim3 threads(int64_t count) { return dim3{static_cast<unsigned>(count), 1, 1}; }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads for `wanted` items: whole warps, at least one, at most `most`.
inline int64_t whole_warps(int64_t wanted, int64_t most) {
  const int64_t count = ceil_div(wanted > 0 ? wanted : 1, kWarpLanes) * kWarpLanes;
  return count < most ? count : most;
}

// Within the limits of every GPU; the emulator holds them too.
inline bool fits(const Grid& g) {
  const int64_t count = static_cast<int64_t>(g.threads.x) * g.threads.y * g.threads.z;
  return g.blocks.x <= kMostBlocksX && g.blocks.y <= kMostBlocksY && g.blocks.z <= kMostBlocksY && count <= 1024;
}

#ifdef __CUDACC__
// What a kernel gets without asking; more has to be allowed per kernel.
constexpr size_t kSharedBytes = 48 * 1024;

inline const char* start(const void* kernel, const Grid& grid, void** arguments) {
  cudaError_t error = cudaSuccess;
  if (grid.shared_bytes > kSharedBytes)
    error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared_bytes));
  if (error == cudaSuccess)
    error = cudaLaunchKernel(kernel, grid.blocks, grid.threads, arguments, grid.shared_bytes,
                             static_cast<cudaStream_t>(current_stream()));
  if (error == cudaSuccess) return nullptr;
  (void)cudaGetLastError();  // or the next call would report it again
  return cudaGetErrorString(error);
}
#endif

// Nothing waits for the kernel: what it does wrong shows at a later call of the caller's.
template <typename... P>
Status launch(void (*kernel)(P...), const Grid& grid, P... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return kOk;  // nothing to compute
  if (!fits(grid)) return Status{"a grid larger than a GPU runs"};
#ifdef __CUDACC__
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  return Status{start(reinterpret_cast<const void*>(kernel), grid, pointers)};
#else
  auto call = [&] { kernel(arguments...); };
  return Status{simt::run_grid(
      grid.blocks, grid.threads, grid.shared_bytes, [](void* context) { (*static_cast<decltype(call)*>(context))(); },
      &call)};
#endif
}

}  // namespace convkit::cuda
