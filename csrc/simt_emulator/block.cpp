#include "simt_emulator/block.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

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
  std::vector<unsigned> order;
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

thread_local Machine machine;
std::atomic<uint64_t> seed{0};
std::atomic<Delivery> delivery{Delivery::kAtWait};

unsigned volume(Size s) { return s.x * s.y * s.z; }

uint64_t next_random(uint64_t* state) {  // splitmix64
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void note_failure(const char* format, va_list arguments) {
  machine.failed = true;
  const int used =
      snprintf(machine.message, sizeof(machine.message), "SIMT emulator, block (%u, %u, %u): ", machine.block_index.x,
               machine.block_index.y, machine.block_index.z);
  vsnprintf(machine.message + used, sizeof(machine.message) - static_cast<size_t>(used), format, arguments);
}

void note(const char* format, ...) __attribute__((format(printf, 1, 2)));
void note(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  note_failure(format, arguments);
  va_end(arguments);
}

// Back to the scheduler; returns when the thread is run again.
void yield() { Fiber::switch_to(&machine.running->fiber, &machine.scheduler, false); }

void leave() { Fiber::switch_to(&machine.running->fiber, &machine.scheduler, true); }

void run_thread(void*) {
  machine.body(machine.context);
  machine.running->state = Thread::kReturned;
  ++machine.returned;
  leave();
}

void permute(uint64_t launch_seed, uint64_t block_number) {
  machine.order.resize(machine.count);
  for (unsigned i = 0; i < machine.count; ++i) machine.order[i] = i;
  if (launch_seed == 0) return;
  uint64_t state = launch_seed + block_number;
  for (unsigned i = machine.count; i > 1; --i) std::swap(machine.order[i - 1], machine.order[next_random(&state) % i]);
}

// What keeps the block from going on.
void explain_stall() {
  for (const auto& thread : machine.threads) {
    if (thread->number >= machine.count) continue;
    if (thread->state == Thread::kAtBarrier)
      return note("divergent barrier: %u of %u threads wait at %s, %u have returned", machine.at_barrier, machine.count,
                  thread->site, machine.returned);
  }
  for (const auto& thread : machine.threads) {
    if (thread->number >= machine.count || thread->state != Thread::kInWarp) continue;
    const Warp& warp = machine.warps[thread->number / kWarp];
    return note("warp operation at %s: the mask names lanes %08x, of which only %08x came", thread->site, thread->mask,
                warp.arrived);
  }
}

bool run_block(uint64_t launch_seed, uint64_t block_number) {
  // NaN in every floating format, and an index far outside as an integer.
  std::memset(machine.shared.get(), 0xff, machine.shared_bytes);
  machine.at_barrier = machine.returned = 0;
  machine.warps.assign((machine.count + kWarp - 1) / kWarp, Warp{});
  permute(launch_seed, block_number);
  for (unsigned i = 0; i < machine.count; ++i) {
    Thread& thread = *machine.threads[i];
    thread.number = i;
    thread.index =
        Size{i % machine.block.x, i / machine.block.x % machine.block.y, i / machine.block.x / machine.block.y};
    thread.state = Thread::kReady;
    thread.copies.clear();
    thread.groups = 0;
    if (!thread.fiber.prepare(&run_thread, nullptr)) {
      note("no memory for the stacks of %u threads", machine.count);
      return false;
    }
  }
  while (machine.returned < machine.count) {
    bool progress = false;
    for (const unsigned i : machine.order) {
      Thread& thread = *machine.threads[i];
      if (thread.state != Thread::kReady) continue;
      progress = true;
      machine.running = &thread;
      Fiber::switch_to(&machine.scheduler, &thread.fiber, false);
      if (machine.failed) return false;
    }
    if (!progress) {
      explain_stall();
      return false;
    }
  }
  return true;
}

// The running thread comes to the meeting of its warp. The last to come gets the warp and must `part` it; the others
// return when that has happened, with nullptr.
Warp* meet(unsigned mask, uint64_t value, int from, const char* site) {
  Thread& self = *machine.running;
  Warp& warp = machine.warps[self.number / kWarp];
  const unsigned bit = 1u << (self.number % kWarp);
  if ((mask & bit) == 0) fail("warp operation at %s: lane %u is not in its own mask %08x", site, lane(), mask);
  if (warp.arrived == 0) {
    warp.site = site;
    warp.expected = mask;
  } else if (warp.expected != mask || std::strcmp(warp.site, site) != 0) {
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
  const unsigned first = machine.running->number - lane();
  for (int i = 0; i < kWarp; ++i)
    if ((mask >> i & 1u) != 0) f(*machine.threads[first + static_cast<unsigned>(i)], i);
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
  machine.failed = false;
  machine.grid = grid;
  machine.block = block;
  machine.block_index = Size{0, 0, 0};
  machine.count = volume(block);
  machine.body = body;
  machine.context = context;
  machine.delivery = delivery;
  if (machine.count == 0 || machine.count > kMaxThreads || block.z > 64 || volume(grid) == 0 || grid.y > 65535 ||
      grid.z > 65535) {
    note("a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads cannot be launched", grid.x, grid.y, grid.z, block.x,
         block.y, block.z);
    return machine.message;
  }
  while (machine.threads.size() < machine.count) machine.threads.push_back(std::make_unique<Thread>());
  machine.shared_bytes = shared_bytes;
  machine.shared.reset(static_cast<char*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128)));
  if (machine.shared == nullptr) {
    note("no memory for %zu bytes of shared memory", shared_bytes);
    return machine.message;
  }
  const uint64_t launch_seed = seed;
  uint64_t number = 0;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x, ++number) {
        machine.block_index = Size{x, y, z};
        if (!run_block(launch_seed, number)) return machine.message;
      }
  return nullptr;
}

Size thread_index() { return machine.running->index; }
Size block_index() { return machine.block_index; }
Size block_size() { return machine.block; }
Size grid_size() { return machine.grid; }
unsigned lane() { return machine.running->number % kWarp; }
void* shared_memory() { return machine.shared.get(); }

void block_barrier(const char* site) {
  Thread& self = *machine.running;
  if (machine.at_barrier == 0) machine.barrier_site = site;
  if (std::strcmp(machine.barrier_site, site) != 0)
    fail("divergent barrier: thread %u waits at %s, others at %s", self.number, site, machine.barrier_site);
  self.site = site;
  self.state = Thread::kAtBarrier;
  if (++machine.at_barrier < machine.count) return yield();
  machine.at_barrier = 0;
  for (unsigned i = 0; i < machine.count; ++i) machine.threads[i]->state = Thread::kReady;
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
  return machine.running->value;
}

unsigned warp_vote(unsigned mask, bool vote, const char* site) {
  if (Warp* warp = meet(mask, vote ? 1 : 0, 0, site)) {
    unsigned votes = 0;
    for_lanes(mask, [&](Thread& lane, int i) { votes |= static_cast<unsigned>(lane.value) << i; });
    for_lanes(mask, [&](Thread& lane, int) { lane.value = votes; });
    part(warp, mask);
  }
  return static_cast<unsigned>(machine.running->value);
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
  return static_cast<unsigned>(machine.running->value);
}

void copy_async(void* shared, const void* source, int size, int bytes) {
  Thread& self = *machine.running;
  const auto to = reinterpret_cast<uintptr_t>(shared), base = reinterpret_cast<uintptr_t>(machine.shared.get());
  if (to < base || to + static_cast<uintptr_t>(size) > base + machine.shared_bytes)
    fail("cp.async outside of shared memory");
  if (to % static_cast<uintptr_t>(size) != 0 ||
      (bytes > 0 && reinterpret_cast<uintptr_t>(source) % static_cast<uintptr_t>(size) != 0))
    fail("misaligned cp.async of %d bytes", size);
  const Copy copy{shared, source, size, bytes, self.groups};
  if (machine.delivery == Delivery::kAtIssue) return deliver(copy);
  self.copies.push_back(copy);
}

void commit_copies() { ++machine.running->groups; }

void wait_copies(int pending_groups) {
  Thread& self = *machine.running;
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
