// What this library was built from and for, as JSON, for convkit/build_info.py (read with ctypes, no operator).
#include <cstdio>
#include <string>

#include "core/launchers.h"
#include "cpu/processor.h"

namespace {

constexpr const char* kCompiledSets[] = {CONVKIT_INSTRUCTION_SETS};
#ifndef CONVKIT_CUDA_VERSION  // built without GPU kernels
#define CONVKIT_CUDA_VERSION ""
#define CONVKIT_CUDA_ARCHS ""
#endif

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

// "sm_80 compute_80" as a list.
std::string join_archs() {
  std::string list, name;
  for (const char c : std::string(CONVKIT_CUDA_ARCHS) + " ") {
    if (c != ' ') {
      name += c;
    } else if (!name.empty()) {
      list += (list.empty() ? "" : ", ") + quoted(name);
      name.clear();
    }
  }
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
         ", \"instruction_set\": " + quoted(convkit::cpu::instruction_set()) +
         ", \"cuda\": " + quoted(CONVKIT_CUDA_VERSION) + ", \"cuda_archs\": " + join_archs() + "}";
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* convkit_build_info() {
  static const std::string text = describe();
  return text.c_str();
}
