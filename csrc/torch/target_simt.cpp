// The same bindings for the tests' library, in which CPU tensors go to the GPU kernels on the SIMT emulator.
#include <string>

#include "simt_emulator/block.h"
#include "torch/target.h"

namespace convkit::binding {

Target::Target(const Tensor&) : launchers_(&cuda::launchers()) {}

void prepare_targets() {}

}  // namespace convkit::binding

// As convkit_algorithms() of the operator library.
extern "C" __attribute__((visibility("default"))) const char* convkit_algorithms() {
  static const std::string text = [] {
    std::string lines;
    for (int64_t i = 1; const char* name = convkit::cuda::launchers().conv_algorithm(i); ++i)
      lines += (i > 1 ? "\n" : "") + std::string(name);
    return lines;
  }();
  return text.c_str();
}

// The order of threads (0: ascending) and whether cp.async delivers late, for all launches from now on.
extern "C" __attribute__((visibility("default"))) void convkit_simt_options(uint64_t seed, int late) {
  using namespace convkit::simt;
  set_options(Options{seed, late != 0 ? Delivery::kAtWait : Delivery::kAtIssue});
}
