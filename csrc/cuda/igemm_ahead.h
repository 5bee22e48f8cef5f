// What all threads of a block need to know of the rows of a step, worked out by one thread for each row.
//
// A row of an operand that lies across the reduction is a position or a channel of a tap, and where it lies takes
// divisions; 8 to 32 threads bring vectors of it. So a thread per row works that out, a few steps before the copies of
// the step begin, in warps that take turns, and leaves it in shared memory.
#pragma once

#include "cuda/igemm_tile.h"

namespace convkit::cuda {

// `Entry` is what is known of a row, one of kRows of a step. The block's barriers are those of Pipeline: one before
// each fetch but the first kAhead. An entry is written kAhead fetches before it is read, so that a barrier lies
// between, and kSlots - kAhead fetches after what it overwrites was read, likewise.
template <typename Entry, int kRows, int kThreads>
class RowsAhead {
  static constexpr int kSlots = 2 * Pipeline::kStages, kTurns = kThreads / kRows;
  static_assert(kThreads >= kRows * Pipeline::kAhead && kThreads % kRows == 0,
                "a thread for each row of the first steps");

 public:
  static constexpr size_t kBytes = kSlots * kRows * sizeof(Entry);

  // `entry_of(row)` of rows counted from the block's first; every thread of the block comes here.
  template <typename EntryOf>
  CONVKIT_DEVICE RowsAhead(void* memory, EntryOf&& entry_of) : entries_(static_cast<Entry*>(memory)) {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < kRows * Pipeline::kAhead) entries_[thread] = entry_of(thread);
    __syncthreads();
  }

  // Once for each step, by every thread of the block, before it reads the step's entries.
  template <typename EntryOf>
  CONVKIT_DEVICE const Entry* next(EntryOf&& entry_of) {
    const int thread = static_cast<int>(threadIdx.x), ahead = step_ + Pipeline::kAhead;
    if (thread / kRows == step_ % kTurns)
      entries_[ahead % kSlots * kRows + thread % kRows] = entry_of(ahead * kRows + thread % kRows);
    return entries_ + step_++ % kSlots * kRows;
  }

 private:
  Entry* entries_;
  int step_ = 0;
};

}  // namespace convkit::cuda
