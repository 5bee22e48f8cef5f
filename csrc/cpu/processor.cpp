#include "cpu/processor.h"

#include <cstring>

namespace convkit::cpu {

bool processor_supports(const char* instruction_set) {
  if (std::strcmp(instruction_set, "portable") == 0) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (std::strcmp(instruction_set, "avx2") == 0) return avx2;
  if (std::strcmp(instruction_set, "avx512") == 0)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
  return false;
}

}  // namespace convkit::cpu
