// Where a call runs: the kernels of the device that holds its tensors.
#pragma once

#include "torch/binding.h"

namespace convkit::binding {

class Target {
 public:
  explicit Target(const Tensor& t);
  const Launchers* operator->() const { return launchers_; }

 private:
  const Launchers* launchers_;
};

// Called once, when the library is loaded.
void prepare_targets();
void install_parallel_runner();

}  // namespace convkit::binding
