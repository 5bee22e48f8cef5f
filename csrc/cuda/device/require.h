// What must hold on the device, in release builds too: as PyTorch's CUDA operators do, the kernel ends and the next
// call on the stream that waits reports it.
#pragma once

#include "cuda/device/platform.h"

#ifdef __CUDACC__
#pragma push_macro("NDEBUG")
#undef NDEBUG
#include <cassert>
#endif

namespace convkit::cuda {

CONVKIT_DEVICE void require(bool holds, const char* what, int64_t value) {
#ifdef __CUDACC__
  (void)what;
  (void)value;
  assert(holds && "an index lies outside of its volume");
#else
  if (!holds) simt::fail("%s: %lld", what, static_cast<long long>(value));
#endif
}

}  // namespace convkit::cuda

#ifdef __CUDACC__
#pragma pop_macro("NDEBUG")
#endif
