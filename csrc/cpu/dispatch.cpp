// Picks the instruction set once, and holds what is shared by all of them: threads and scratch memory.
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/launchers.h"
#include "core/parallel.h"
#include "cpu/processor.h"

namespace convkit {

#if CONVKIT_HAS_avx512
namespace avx512 {
extern const Launchers kLaunchers;
}
#endif
#if CONVKIT_HAS_avx2
namespace avx2 {
extern const Launchers kLaunchers;
}
#endif
namespace portable {
extern const Launchers kLaunchers;
}

namespace {

struct InstructionSet {
  const char* name;
  const Launchers* launchers;
};

[[maybe_unused]] bool allowed(const char* name) {  // of one set alone nobody asks
  const char* forced = std::getenv("CONVKIT_CPU_ISA");
  return forced == nullptr || *forced == '\0' || std::strcmp(forced, name) == 0;
}

InstructionSet choose() {
#if CONVKIT_HAS_avx512
  if (allowed("avx512") && cpu::processor_supports("avx512")) return {"avx512", &avx512::kLaunchers};
#endif
#if CONVKIT_HAS_avx2
  if (allowed("avx2") && cpu::processor_supports("avx2")) return {"avx2", &avx2::kLaunchers};
#endif
  return {"portable", &portable::kLaunchers};
}

const InstructionSet& chosen() {
  static const InstructionSet set = choose();
  return set;
}

ParallelRunner installed_runner = nullptr;

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(data); }
};

}  // namespace

namespace cpu {
const Launchers& launchers() { return *chosen().launchers; }
const char* instruction_set() { return chosen().name; }
}  // namespace cpu

void set_parallel_runner(ParallelRunner runner) { installed_runner = runner; }

void run_parallel(int64_t tasks, void (*body)(void* context, int64_t task), void* context) {
  if (tasks > 1 && installed_runner != nullptr) return installed_runner(tasks, body, context);
  for (int64_t i = 0; i < tasks; ++i) body(context, i);
}

void* thread_scratch(int slot, size_t bytes) {
  static thread_local Scratch slots[kScratchSlots];
  Scratch& s = slots[slot];
  if (s.bytes < bytes) {
    std::free(s.data);
    s.bytes = (bytes + 4095) / 4096 * 4096;
    s.data = std::aligned_alloc(64, s.bytes);
    if (s.data == nullptr) s.bytes = 0;
  }
  return s.data;
}

}  // namespace convkit

// Names of the convolution algorithms in the table's order, one per line; number i (ConvSpec.algorithm) is line i.
extern "C" __attribute__((visibility("default"))) const char* convkit_algorithms() {
  static const std::string names = [] {
    std::string lines;
    for (int64_t i = 1; const char* name = convkit::cpu::launchers().conv_algorithm(i); ++i)
      lines += std::string(i > 1 ? "\n" : "") + name;
    return lines;
  }();
  return names.c_str();
}
