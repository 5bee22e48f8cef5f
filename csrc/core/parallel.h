// Host threading as kernels see it: independent tasks, whose results do not depend on which thread runs them.
//
// Kernels decide the tasks from the problem alone (never from the number of threads), so that results have
// the same bits for any number of threads.
#pragma once

#include "core/macros.h"

namespace convkit {

// Runs body(context, i) for every i in [0, tasks), on the threads of the host framework.
using ParallelRunner = void (*)(int64_t tasks, void (*body)(void* context, int64_t task), void* context);

// Installed once when the library is loaded; without one, tasks run in order on the calling thread.
void set_parallel_runner(ParallelRunner runner);
void run_parallel(int64_t tasks, void (*body)(void* context, int64_t task), void* context);

// Per-thread scratch memory, 64-byte aligned, reused by later calls; `slot` names independent buffers
// (0 to kScratchSlots - 1). Contents are undefined. nullptr if memory is exhausted.
constexpr int kScratchSlots = 4;
void* thread_scratch(int slot, size_t bytes);

inline namespace CONVKIT_ISA {

template <typename F>
CONVKIT_INLINE void parallel_for(int64_t tasks, const F& f) {
  auto body = [](void* context, int64_t task) { (*static_cast<const F*>(context))(task); };
  run_parallel(tasks, body, const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
