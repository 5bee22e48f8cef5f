// How a grid runs on the CPU: block after block, each GPU thread a fiber that runs until it waits.
//
// What a GPU leaves open is chosen to hurt: blocks, and threads in each, run in an order permuted under a seed, threads
// all of the way from one barrier to the next; shared memory holds NaN before each block. What a GPU leaves undefined
// is reported: a barrier that not every thread of the block reaches, warp operations whose mask and callers disagree,
// misaligned vectors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convkit::simt {

struct Size {
  unsigned x = 1, y = 1, z = 1;
};

constexpr int kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxSharedBytes = 99 * 1024;  // what every GPU from sm_80 on gives a block

// When a cp.async copies: a GPU may do it at any time between the two.
enum class Delivery { kAtIssue, kAtWait };

struct Options {
  uint64_t seed = 0;  // of the order of blocks and threads; 0: ascending
  Delivery delivery = Delivery::kAtWait;
};
// For all launches from now on, of all threads.
void set_options(const Options& options);

// Runs a grid. Returns nullptr, or what was wrong: a message that lives until this thread's next launch.
const char* run_grid(Size grid, Size block, size_t shared_bytes, void (*body)(void* context), void* context);

// --- For the thread that runs now -------------------------------------------------------------------------------

Size thread_index();
Size block_index();
Size block_size();
Size grid_size();
unsigned lane();        // within the warp
void* shared_memory();  // of the block; 128-byte aligned
bool is_shared(const void* from, size_t bytes);

// Waits for every thread of the block. `site` names the call: two different ones do not match.
void block_barrier(const char* site);

// The lanes of `mask` meet; `site` as above. Each brings a value and gets that of lane `from` (outside of the warp: its
// own; outside of the mask: NaN), or brings a vote and gets the set of lanes that voted for.
uint64_t warp_shuffle(unsigned mask, uint64_t value, int from, const char* site);
unsigned warp_vote(unsigned mask, bool vote, const char* site);
// The set of lanes that bring the same value.
unsigned warp_match(unsigned mask, uint64_t value, const char* site);

// All 32 lanes meet, each with an operand of its own; the last to come calls `compute` on the operands of all, in the
// order of lanes, for all of them. Operands may live on the lanes' stacks.
void warp_together(void* operand, void (*compute)(void* const (&operands)[kWarp]), const char* site);

// cp.async: `bytes` from `source` and zeros after them, `size` (4, 8 or 16) in all.
void copy_async(void* shared, const void* source, int size, int bytes);
void commit_copies();
void wait_copies(int pending_groups);  // until at most so many groups are on their way

// Ends the grid with a message (printf-like), from the thread that runs now.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace convkit::simt
