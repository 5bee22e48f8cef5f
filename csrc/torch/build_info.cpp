// What this library was built from and for, as JSON, for convkit/build_info.py (read with ctypes, no operator).
#include <cstdio>
#include <string>

#include "core/launchers.h"
#include "cpu/processor.h"

namespace {

constexpr const char* kCompiledSets[] = {CONVKIT_INSTRUCTION_SETS};

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

std::string join_sets(bool runnable_only) {
  std::string list;
  for (const char* name : kCompiledSets)
    if (!runnable_only || convkit::cpu::processor_supports(name)) list += (list.empty() ? "" : ", ") + quoted(name);
  return "[" + list + "]";
}

// The torch version whose stable interface is used, from TORCH_TARGET_VERSION's bytes: major, minor, patch, ...
std::string target_torch() {
  constexpr unsigned long long kTarget = TORCH_TARGET_VERSION;
  return std::to_string(kTarget >> 56) + "." + std::to_string((kTarget >> 48) & 0xff);
}

std::string describe() {
  return "{\"version\": " + quoted(CONVKIT_VERSION) + ", \"compiler\": " + quoted(CONVKIT_COMPILER) +
         ", \"flags\": " + quoted(CONVKIT_FLAGS) + ", \"minimum_torch\": " + quoted(target_torch()) +
         ", \"compiled_instruction_sets\": " + join_sets(false) +
         ", \"runnable_instruction_sets\": " + join_sets(true) +
         ", \"instruction_set\": " + quoted(convkit::cpu::instruction_set()) + ", \"cuda_archs\": []}";
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* convkit_build_info() {
  static const std::string text = describe();
  return text.c_str();
}
