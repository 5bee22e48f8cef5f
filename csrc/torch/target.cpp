// Where calls run in a library without GPU kernels.
#include "torch/target.h"

namespace convkit::binding {

Target::Target(std::initializer_list<const Tensor*> tensors) : launchers_(&cpu::launchers()) { common_place(tensors); }

void prepare_targets() { install_parallel_runner(); }

}  // namespace convkit::binding
