// The same bindings for the tests' library, in which CPU tensors go to the GPU kernels on the SIMT emulator.
#include <cstdlib>
#include <cstring>

#include "cuda/device/runtime.h"
#include "simt_emulator/block.h"
#include "torch/target.h"

namespace convkit::binding {

namespace {

// Full of NaN, whatever the type, and as aligned as the memory of a GPU.
void* take_workspace(int64_t bytes, void** owner) {
  const size_t whole = (static_cast<size_t>(bytes) + 255) / 256 * 256;
  *owner = std::aligned_alloc(256, whole);
  return *owner == nullptr ? nullptr : std::memset(*owner, 0xff, whole);
}

}  // namespace

Target::Target(std::initializer_list<const Tensor*> tensors) : launchers_(&cuda::launchers()) { common_place(tensors); }

void prepare_targets() { cuda::set_workspace_source({take_workspace, std::free}); }

}  // namespace convkit::binding

// The order of threads (0: ascending) and whether cp.async delivers late, for all launches from now on.
extern "C" __attribute__((visibility("default"))) void convkit_simt_options(uint64_t seed, int late) {
  using namespace convkit::simt;
  set_options(Options{seed, late != 0 ? Delivery::kAtWait : Delivery::kAtIssue});
}
