// What the GPU part of a library can run, for convkit/backends/gpu.py (read with ctypes, no operator).
#include <string>

#include "cuda/device/runtime.h"
#include "cuda/operations.h"

namespace {

struct ListKernels {
  std::string* lines;
  template <typename Entry>
  void operator()(const char* name, Entry* entry) const {
    if (convkit::cuda::has_kernel(*entry)) *lines += (lines->empty() ? "" : "\n") + std::string(name);
  }
};

}  // namespace

// Names of the operations that have a GPU kernel, one per line.
extern "C" __attribute__((visibility("default"))) const char* convkit_gpu_operations() {
  static const std::string names = [] {
    std::string lines;
    convkit::Launchers table = convkit::cuda::launchers();
    convkit::cuda::each_operation(&table, ListKernels{&lines});
    return lines;
  }();
  return names.c_str();
}

// Names of the GPU's convolution algorithms in the table's order, one per line.
extern "C" __attribute__((visibility("default"))) const char* convkit_gpu_algorithms() {
  static const std::string names = [] {
    std::string lines;
    for (int64_t i = 1; const char* name = convkit::cuda::launchers().conv_algorithm(i); ++i)
      lines += (i > 1 ? "\n" : "") + std::string(name);
    return lines;
  }();
  return names.c_str();
}

extern "C" __attribute__((visibility("default"))) int convkit_cuda_driver() { return convkit::cuda::driver_version(); }
