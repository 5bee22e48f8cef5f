#include "torch/target.h"

namespace convkit::binding {

Target::Target(const Tensor&) : launchers_(&cpu::launchers()) {}

void prepare_targets() { install_parallel_runner(); }

}  // namespace convkit::binding
