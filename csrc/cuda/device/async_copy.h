// cp.async: copies from global to shared memory that go on while the thread computes. PTX ISA, "cp.async".
#pragma once

#include "cuda/device/platform.h"

namespace convkit::cuda {

// Starts a copy of 16 bytes, or of zeros where `valid` is false (`global` is then not read).
CONVKIT_DEVICE void copy_async_16(void* shared, const void* global, bool valid = true) {
#ifdef __CUDACC__
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#else
  simt::copy_async(shared, global, 16, valid ? 16 : 0);
#endif
}

// What was started since the last call is a group.
CONVKIT_DEVICE void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::commit_copies();
#endif
}

// Waits until at most kPending groups of this thread are on their way. Others' copies need a barrier behind it.
template <int kPending>
CONVKIT_DEVICE void wait_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  simt::wait_copies(kPending);
#endif
}

}  // namespace convkit::cuda
