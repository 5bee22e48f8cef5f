// Launching kernels on the caller's stream: the only place that does.
#pragma once

#include "core/status.h"
#include "cuda/device/platform.h"

namespace convkit::cuda {

// The stream of this host thread's launches; the binding sets it before each call, with the device current.
void set_stream(void* stream);
void* current_stream();

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

#ifdef __CUDACC__
template <typename... P>
Status launch(void (*kernel)(P...), const Grid& grid, P... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid.blocks, grid.threads, pointers,
                                             grid.shared_bytes, static_cast<cudaStream_t>(current_stream()));
  return error == cudaSuccess ? kOk : Status{cudaGetErrorString(error)};
}
#else
template <typename... P>
Status launch(void (*kernel)(P...), const Grid& grid, P... arguments) {
  auto call = [&] { kernel(arguments...); };
  const char* error = simt::run_grid(
      grid.blocks, grid.threads, grid.shared_bytes, [](void* context) { (*static_cast<decltype(call)*>(context))(); },
      &call);
  return Status{error};
}
#endif

}  // namespace convkit::cuda
