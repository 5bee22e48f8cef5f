#include "simt_emulator/block.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "simt_emulator/fiber.h"

namespace convkit::simt {
namespace {

struct Copy {
  void* to;
  const void* from;
  int size, bytes;
  int group;  // commits before it
};

struct Thread {
  Fiber fiber;
  Size index;
  unsigned number = 0;
  enum { kReady, kAtBarrier, kInWarp, kReturned } state = kReady;
  const char* site = nullptr;
  // What the thread brings to the meeting of its warp, and gets there.
  unsigned mask = 0;
  int from = 0;
  uint64_t value = 0;
  std::vector<Copy> copies;
  int groups = 0;
};

// The meeting of a warp's lanes; a warp holds one at a time.
struct Warp {
  unsigned arrived = 0, expected = 0;  // masks
  const char* site = nullptr;
};

struct Machine {
  Fiber scheduler;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> order, blocks;
  std::unique_ptr<char, decltype(&std::free)> shared{nullptr, &std::free};
  size_t shared_bytes = 0;
  Size grid, block, block_index;
  unsigned count = 0, at_barrier = 0, returned = 0;
  const char* barrier_site = nullptr;
  Thread* running = nullptr;
  Delivery delivery = Delivery::kAtWait;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  bool failed = false;
  char message[512] = {};
};

// Of this host thread, made by its first launch. A pointer in the part of thread-local memory that needs no call to be
// found: every step of an emulated thread asks for it.
__attribute__((tls_model("initial-exec"))) thread_local Machine* current = nullptr;

Machine* this_threads_machine() {
  static thread_local Machine own;
  return &own;
}
std::atomic<uint64_t> seed{0};
std::atomic<Delivery> delivery{Delivery::kAtWait};

// Behind the block's shared memory: a write there shows, and under AddressSanitizer a read too.
constexpr size_t kFence = 128;
constexpr char kUntouched = 0x5a;

void close_fence() {
  char* fence = current->shared.get() + current->shared_bytes;
  std::memset(fence, kUntouched, kFence);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(fence, kFence);
#endif
}

bool fence_holds() {
#if !defined(__SANITIZE_ADDRESS__)
  for (size_t i = 0; i < kFence; ++i)
    if (current->shared.get()[current->shared_bytes + i] != kUntouched) return false;
#endif
  return true;
}

unsigned volume(Size s) { return s.x * s.y * s.z; }

uint64_t next_random(uint64_t* state) {  // splitmix64
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void note_failure(const char* format, va_list arguments) {
  current->failed = true;
  const int used = snprintf(current->message, sizeof(current->message),
                            "SIMT emulator, block (%u, %u, %u): ", current->block_index.x, current->block_index.y,
                            current->block_index.z);
  vsnprintf(current->message + used, sizeof(current->message) - static_cast<size_t>(used), format, arguments);
}

void note(const char* format, ...) __attribute__((format(printf, 1, 2)));
void note(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  note_failure(format, arguments);
  va_end(arguments);
}

bool different(const char* a, const char* b) { return a != b && std::strcmp(a, b) != 0; }

// Back to the scheduler; returns when the thread is run again.
void yield() { Fiber::switch_to(&current->running->fiber, &current->scheduler, false); }

void leave() { Fiber::switch_to(&current->running->fiber, &current->scheduler, true); }

void run_thread(void*) {
  current->body(current->context);
  current->running->state = Thread::kReturned;
  ++current->returned;
  leave();
}

// The numbers below `count`, ascending for seed 0.
void permute(std::vector<unsigned>* order, unsigned count, uint64_t launch_seed, uint64_t part) {
  order->resize(count);
  for (unsigned i = 0; i < count; ++i) (*order)[i] = i;
  if (launch_seed == 0) return;
  uint64_t state = launch_seed + part;
  for (unsigned i = count; i > 1; --i) std::swap((*order)[i - 1], (*order)[next_random(&state) % i]);
}

// What keeps the block from going on.
void explain_stall() {
  for (const auto& thread : current->threads) {
    if (thread->number >= current->count) continue;
    if (thread->state == Thread::kAtBarrier)
      return note("divergent barrier: %u of %u threads wait at %s, %u have returned", current->at_barrier,
                  current->count, thread->site, current->returned);
  }
  for (const auto& thread : current->threads) {
    if (thread->number >= current->count || thread->state != Thread::kInWarp) continue;
    const Warp& warp = current->warps[thread->number / kWarp];
    return note("warp operation at %s: the mask names lanes %08x, of which only %08x came", thread->site, thread->mask,
                warp.arrived);
  }
}

bool run_block(uint64_t launch_seed, uint64_t block_number) {
  // NaN in every floating format, and an index far outside as an integer.
  std::memset(current->shared.get(), 0xff, current->shared_bytes);
  current->at_barrier = current->returned = 0;
  current->warps.assign((current->count + kWarp - 1) / kWarp, Warp{});
  permute(&current->order, current->count, launch_seed, block_number);
  for (unsigned i = 0; i < current->count; ++i) {
    Thread& thread = *current->threads[i];
    thread.number = i;
    thread.index =
        Size{i % current->block.x, i / current->block.x % current->block.y, i / current->block.x / current->block.y};
    thread.state = Thread::kReady;
    thread.copies.clear();
    thread.groups = 0;
    if (!thread.fiber.prepare(&run_thread, nullptr)) {
      note("no memory for the stacks of %u threads", current->count);
      return false;
    }
  }
  while (current->returned < current->count) {
    bool progress = false;
    for (const unsigned i : current->order) {
      Thread& thread = *current->threads[i];
      if (thread.state != Thread::kReady) continue;
      progress = true;
      current->running = &thread;
      Fiber::switch_to(&current->scheduler, &thread.fiber, false);
      if (current->failed) return false;
    }
    if (!progress) {
      explain_stall();
      return false;
    }
  }
  if (fence_holds()) return true;
  note("a write behind the block's %zu bytes of shared memory", current->shared_bytes);
  return false;
}

// The running thread comes to the meeting of its warp. The last to come gets the warp and must `part` it; the others
// return when that has happened, with nullptr.
Warp* meet(unsigned mask, uint64_t value, int from, const char* site) {
  Thread& self = *current->running;
  Warp& warp = current->warps[self.number / kWarp];
  const unsigned bit = 1u << (self.number % kWarp);
  if ((mask & bit) == 0) fail("warp operation at %s: lane %u is not in its own mask %08x", site, lane(), mask);
  if (warp.arrived == 0) {
    warp.site = site;
    warp.expected = mask;
  } else if (warp.expected != mask || different(warp.site, site)) {
    fail("divergent warp operation: lane %u comes to %s with mask %08x, others to %s with %08x", lane(), site, mask,
         warp.site, warp.expected);
  }
  warp.arrived |= bit;
  self.site = site;
  self.mask = mask;
  self.value = value;
  self.from = from;
  if (warp.arrived == mask) return &warp;
  self.state = Thread::kInWarp;
  yield();
  return nullptr;
}

template <typename F>
void for_lanes(unsigned mask, const F& f) {
  const unsigned first = current->running->number - lane();
  for (int i = 0; i < kWarp; ++i)
    if ((mask >> i & 1u) != 0) f(*current->threads[first + static_cast<unsigned>(i)], i);
}

void part(Warp* warp, unsigned mask) {
  warp->arrived = 0;
  for_lanes(mask, [](Thread& lane, int) { lane.state = Thread::kReady; });
}

void deliver(const Copy& copy) {
  std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, static_cast<size_t>(copy.size - copy.bytes));
}

}  // namespace

void set_options(const Options& options) {
  seed = options.seed;
  delivery = options.delivery;
}

const char* run_grid(Size grid, Size block, size_t shared_bytes, void (*body)(void*), void* context) {
  current = this_threads_machine();
  current->failed = false;
  current->grid = grid;
  current->block = block;
  current->block_index = Size{0, 0, 0};
  current->count = volume(block);
  current->body = body;
  current->context = context;
  current->delivery = delivery;
  if (current->count == 0 || current->count > kMaxThreads || block.z > 64 || volume(grid) == 0 || grid.y > 65535 ||
      grid.z > 65535) {
    note("a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads cannot be launched", grid.x, grid.y, grid.z, block.x,
         block.y, block.z);
    return current->message;
  }
  if (shared_bytes > kMaxSharedBytes) {
    note("%zu bytes of shared memory: not every GPU gives a block more than %zu", shared_bytes, kMaxSharedBytes);
    return current->message;
  }
  while (current->threads.size() < current->count) current->threads.push_back(std::make_unique<Thread>());
  current->shared_bytes = shared_bytes;
  current->shared.reset(static_cast<char*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + kFence)));
  if (current->shared == nullptr) {
    note("no memory for %zu bytes of shared memory", shared_bytes);
    return current->message;
  }
  close_fence();
  const uint64_t launch_seed = seed;
  const unsigned blocks = volume(grid);
  permute(&current->blocks, blocks, launch_seed, blocks);
  for (const unsigned i : current->blocks) {
    current->block_index = Size{i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
    if (!run_block(launch_seed, i)) return current->message;
  }
  return nullptr;
}

Size thread_index() { return current->running->index; }
Size block_index() { return current->block_index; }
Size block_size() { return current->block; }
Size grid_size() { return current->grid; }
unsigned lane() { return current->running->number % kWarp; }
void* shared_memory() { return current->shared.get(); }

bool is_shared(const void* from, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(from), base = reinterpret_cast<uintptr_t>(current->shared.get());
  return at >= base && at + bytes <= base + current->shared_bytes;
}

void block_barrier(const char* site) {
  Thread& self = *current->running;
  if (current->at_barrier == 0) current->barrier_site = site;
  if (different(current->barrier_site, site))
    fail("divergent barrier: thread %u waits at %s, others at %s", self.number, site, current->barrier_site);
  self.site = site;
  self.state = Thread::kAtBarrier;
  if (++current->at_barrier < current->count) return yield();
  current->at_barrier = 0;
  for (unsigned i = 0; i < current->count; ++i) current->threads[i]->state = Thread::kReady;
  yield();  // so that the order of threads holds after the barrier as well
}

uint64_t warp_shuffle(unsigned mask, uint64_t value, int from, const char* site) {
  if (Warp* warp = meet(mask, value, from, site)) {
    uint64_t values[kWarp];
    std::memset(values, 0xff, sizeof(values));
    for_lanes(mask, [&](Thread& lane, int i) { values[i] = lane.value; });
    for_lanes(mask,
              [&](Thread& lane, int i) { lane.value = values[lane.from < 0 || lane.from >= kWarp ? i : lane.from]; });
    part(warp, mask);
  }
  return current->running->value;
}

void warp_together(void* operand, void (*compute)(void* const (&operands)[kWarp]), const char* site) {
  constexpr unsigned kAll = 0xffffffffu;
  if (Warp* warp = meet(kAll, reinterpret_cast<uintptr_t>(operand), 0, site)) {
    void* operands[kWarp];
    for_lanes(kAll, [&](Thread& lane, int i) { operands[i] = reinterpret_cast<void*>(lane.value); });
    compute(operands);
    if (!current->failed) part(warp, kAll);
  }
}

unsigned warp_vote(unsigned mask, bool vote, const char* site) {
  if (Warp* warp = meet(mask, vote ? 1 : 0, 0, site)) {
    unsigned votes = 0;
    for_lanes(mask, [&](Thread& lane, int i) { votes |= static_cast<unsigned>(lane.value) << i; });
    for_lanes(mask, [&](Thread& lane, int) { lane.value = votes; });
    part(warp, mask);
  }
  return static_cast<unsigned>(current->running->value);
}

unsigned warp_match(unsigned mask, uint64_t value, const char* site) {
  if (Warp* warp = meet(mask, value, 0, site)) {
    uint64_t values[kWarp] = {};
    for_lanes(mask, [&](Thread& lane, int i) { values[i] = lane.value; });
    for_lanes(mask, [&](Thread& lane, int i) {
      uint64_t same = 0;
      for (int other = 0; other < kWarp; ++other)
        same |= uint64_t{(mask >> other & 1u) != 0 && values[other] == values[i]} << other;
      lane.value = same;
    });
    part(warp, mask);
  }
  return static_cast<unsigned>(current->running->value);
}

void copy_async(void* shared, const void* source, int size, int bytes) {
  Thread& self = *current->running;
  if (!is_shared(shared, static_cast<size_t>(size))) fail("cp.async outside of shared memory");
  if (reinterpret_cast<uintptr_t>(shared) % static_cast<uintptr_t>(size) != 0 ||
      (bytes > 0 && reinterpret_cast<uintptr_t>(source) % static_cast<uintptr_t>(size) != 0))
    fail("misaligned cp.async of %d bytes", size);
  const Copy copy{shared, source, size, bytes, self.groups};
  if (current->delivery == Delivery::kAtIssue) return deliver(copy);
  self.copies.push_back(copy);
}

void commit_copies() { ++current->running->groups; }

void wait_copies(int pending_groups) {
  Thread& self = *current->running;
  size_t kept = 0;
  for (const Copy& copy : self.copies) {
    if (copy.group < self.groups - pending_groups)
      deliver(copy);
    else
      self.copies[kept++] = copy;
  }
  self.copies.resize(kept);
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  note_failure(format, arguments);
  va_end(arguments);
  leave();
  std::abort();
}

}  // namespace convkit::simt
