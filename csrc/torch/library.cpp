// The operators' schemas and their registration: every raw operation once.
//
// Specs are packed integer lists (convkit/problem.py packs, torch/binding.h unpacks): one list argument is
// the cheapest to pass. SymInt keeps one compiled graph for all sizes under torch.compile.
//
// The name of the library is convkit; the tests' library of emulated GPU kernels has another.
#include "torch/batch_norm.h"
#include "torch/conv.h"
#include "torch/pool.h"
#include "torch/pool_flat.h"
#include "torch/target.h"

namespace cb = convkit::binding;

#ifndef CONVKIT_LIBRARY_NAME
#define CONVKIT_LIBRARY_NAME convkit
#endif
// One more macro: STABLE_TORCH_LIBRARY pastes its argument as it is spelled.
#define CONVKIT_DEFINE(name, m) STABLE_TORCH_LIBRARY(name, m)
#define CONVKIT_IMPLEMENT(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)

CONVKIT_DEFINE(CONVKIT_LIBRARY_NAME, m) {
  m.def(
      "conv_fprop(Tensor x, Tensor w, Tensor? bias, Tensor? scale, Tensor? residual, SymInt[] spec, float alpha) "
      "-> Tensor");
  m.def(
      "conv_dgrad(Tensor dy, Tensor w, Tensor? bias, Tensor? scale, Tensor? residual, SymInt[] input_size, "
      "SymInt[] spec, float alpha) -> Tensor");
  m.def("conv_wgrad(Tensor dy, Tensor x, SymInt[] kernel_size, SymInt[] spec) -> Tensor");
  m.def("conv_bgrad(Tensor dy) -> Tensor");
  m.def("conv_plan(int op, Tensor a, Tensor b, SymInt[] size, SymInt[] spec) -> int");
  m.def("max_pool(Tensor x, SymInt[] spec, bool offsets) -> (Tensor, Tensor)");
  m.def("pool_select(Tensor x, Tensor offsets, SymInt[] spec) -> Tensor");
  m.def("pool_select_bwd(Tensor dy, Tensor offsets, SymInt[] input_size, SymInt[] spec) -> Tensor");
  m.def("pool_indices(Tensor offsets, SymInt[] input_size, SymInt[] spec) -> Tensor");
  m.def("avg_pool(Tensor x, SymInt[] spec) -> Tensor");
  m.def("avg_pool_bwd(Tensor dy, SymInt[] input_size, SymInt[] spec) -> Tensor");
  m.def("max_unpool(Tensor x, Tensor indices, SymInt[] output_size, bool channels_last) -> Tensor");
  m.def("plane_gather(Tensor x, Tensor indices, bool channels_last) -> Tensor");
  m.def("plane_scatter(Tensor dy, Tensor indices, SymInt[] input_size, bool channels_last) -> Tensor");
  m.def(
      "fractional_max_pool(Tensor x, Tensor samples, SymInt[] kernel_size, SymInt[] output_size, bool with_indices, "
      "bool channels_last) -> (Tensor, Tensor)");
  m.def("stochastic_pool(Tensor x, Tensor seed, SymInt[] spec) -> (Tensor, Tensor)");
  m.def("stochastic_mean(Tensor x, SymInt[] spec) -> Tensor");
  m.def("stochastic_mean_bwd(Tensor dy, Tensor x, Tensor y, SymInt[] spec) -> Tensor");
  m.def("lp_pool(Tensor x, Tensor? exponent, SymInt[] spec, float p, bool norm) -> Tensor");
  m.def("lp_pool_bwd(Tensor dy, Tensor x, Tensor y, Tensor? exponent, SymInt[] spec, float p, bool norm) -> Tensor");
  m.def("conv_fprop_stats(Tensor x, Tensor w, Tensor? bias, SymInt[] spec) -> (Tensor, Tensor, Tensor)");
  m.def("bn_stats(Tensor x) -> (Tensor, Tensor)");
  m.def(
      "bn_act(Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, Tensor? residual, int activation, "
      "float alpha, bool channels_last) -> Tensor");
  m.def(
      "bn_act_bwd_reduce(Tensor dz, Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, "
      "Tensor? residual, int activation, float alpha) -> (Tensor, Tensor)");
  m.def(
      "bn_act_bwd(Tensor dz, Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, Tensor? residual, "
      "Tensor? dbias, Tensor? dweight, SymInt count, int activation, float alpha, bool with_residual, "
      "bool channels_last) -> (Tensor, Tensor)");
  m.def(
      "bn_act_grad(Tensor dz, Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, Tensor? residual, "
      "SymInt count, int activation, float alpha, bool with_residual, bool channels_last) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

// The bindings serve every device: a call goes where its tensors are (torch/target.h).
template <typename Library>
static void implement(Library& m) {
  m.impl("conv_fprop", TORCH_BOX(&cb::conv_fprop));
  m.impl("conv_dgrad", TORCH_BOX(&cb::conv_dgrad));
  m.impl("conv_wgrad", TORCH_BOX(&cb::conv_wgrad));
  m.impl("conv_bgrad", TORCH_BOX(&cb::conv_bgrad));
  m.impl("conv_plan", TORCH_BOX(&cb::conv_plan));
  m.impl("max_pool", TORCH_BOX(&cb::max_pool));
  m.impl("pool_select", TORCH_BOX(&cb::pool_select));
  m.impl("pool_select_bwd", TORCH_BOX(&cb::pool_select_bwd));
  m.impl("pool_indices", TORCH_BOX(&cb::pool_indices));
  m.impl("avg_pool", TORCH_BOX(&cb::avg_pool));
  m.impl("avg_pool_bwd", TORCH_BOX(&cb::avg_pool_bwd));
  m.impl("max_unpool", TORCH_BOX(&cb::max_unpool));
  m.impl("plane_gather", TORCH_BOX(&cb::plane_gather));
  m.impl("plane_scatter", TORCH_BOX(&cb::plane_scatter));
  m.impl("fractional_max_pool", TORCH_BOX(&cb::fractional_max_pool));
  m.impl("stochastic_pool", TORCH_BOX(&cb::stochastic_pool));
  m.impl("stochastic_mean", TORCH_BOX(&cb::stochastic_mean));
  m.impl("stochastic_mean_bwd", TORCH_BOX(&cb::stochastic_mean_bwd));
  m.impl("lp_pool", TORCH_BOX(&cb::lp_pool));
  m.impl("lp_pool_bwd", TORCH_BOX(&cb::lp_pool_bwd));
  m.impl("conv_fprop_stats", TORCH_BOX(&cb::conv_fprop_stats));
  m.impl("bn_stats", TORCH_BOX(&cb::bn_stats));
  m.impl("bn_act", TORCH_BOX(&cb::bn_act));
  m.impl("bn_act_bwd_reduce", TORCH_BOX(&cb::bn_act_bwd_reduce));
  m.impl("bn_act_bwd", TORCH_BOX(&cb::bn_act_bwd));
  m.impl("bn_act_grad", TORCH_BOX(&cb::bn_act_grad));
}

CONVKIT_IMPLEMENT(CONVKIT_LIBRARY_NAME, CPU, m) {
  cb::prepare_targets();
  implement(m);
}

#ifdef CONVKIT_WITH_CUDA
CONVKIT_IMPLEMENT(CONVKIT_LIBRARY_NAME, CUDA, m) { implement(m); }
#endif
