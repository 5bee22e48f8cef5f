// Where a call runs: the kernels of the device that holds its tensors.
//
// One header and one implementation per library: target.cpp for processors alone, target_cuda.cpp for processors and
// GPUs, target_simt.cpp for the tests' library of emulated GPU kernels.
#pragma once

#include <initializer_list>
#include <memory>

#include "torch/binding.h"

namespace convkit::binding {

// Made of all tensors of a call, for the time of the call: they must be on one device, which is the current one as
// long as the target lives.
class Target {
 public:
  template <typename... Others>
  explicit Target(const Tensor& first, const Others&... others) : Target({pointer(first), pointer(others)...}) {}
  const Launchers* operator->() const { return launchers_; }

 private:
  explicit Target(std::initializer_list<const Tensor*> tensors);

  static const Tensor* pointer(const Tensor& t) { return &t; }
  static const Tensor* pointer(const OptionalTensor& t) { return t ? &*t : nullptr; }

  const Launchers* launchers_ = nullptr;
  std::shared_ptr<void> device_guard_;  // of a GPU
};

// Called once, when the library is loaded.
void prepare_targets();
void install_parallel_runner();

}  // namespace convkit::binding
