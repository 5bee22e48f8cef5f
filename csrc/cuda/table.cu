// The launcher table of the GPU kernels. Operations without a kernel refuse (cuda/operations.h).
#include "core/launchers.h"
#include "cuda/algorithms.h"
#include "cuda/bn_kernels.h"
#include "cuda/operations.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

using Convolution = ConvSelection<kConvAlgorithms>;

Status conv_fprop_stats(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                        const TensorView& y, const ChannelStatistics& statistics) {
  const ConvChoice c = choose(kConvAlgorithms, Convolution::kCount, ConvOp::kFprop, p, {x, w, y});
  if (c.algorithm == nullptr) return {c.reason};
  if (c.algorithm->fprop_stats != nullptr) return c.algorithm->fprop_stats(p, x, w, e, y, statistics);
  const Status status = c.algorithm->fprop(p, x, w, e, y);
  return status.ok() ? bn_stats(y, statistics) : status;
}

Status bn_act_grad(const BatchNorm& b, int64_t count, const TensorView& dz, const TensorView& x,
                   const BatchNormGradients& to) {
  const Status status = bn_act_bwd_reduce(b, dz, x, to.dbias, to.dweight);
  return status.ok() ? bn_act_bwd(b, {to.dbias, to.dweight, count}, dz, x, to.dx, to.dresidual) : status;
}

}  // namespace

const Launchers& launchers() {
  static const Launchers kLaunchers = [] {
    Launchers t{};
    t.conv_fprop = Convolution::fprop;
    t.conv_dgrad = Convolution::dgrad;
    t.conv_wgrad = Convolution::wgrad;
    t.conv_bgrad = conv_bgrad;
    t.conv_plan = Convolution::plan;
    t.conv_algorithm = Convolution::name;
    t.max_pool = max_pool;
    t.pool_select = pool_select;
    t.pool_select_bwd = pool_select_bwd;
    t.pool_indices = pool_indices;
    t.avg_pool = avg_pool;
    t.avg_pool_bwd = avg_pool_bwd;
    t.lp_pool = lp_pool;
    t.lp_pool_bwd = lp_pool_bwd;
    t.stochastic_pool = stochastic_pool;
    t.stochastic_mean = stochastic_mean;
    t.stochastic_mean_bwd = stochastic_mean_bwd;
    t.max_unpool = max_unpool;
    t.plane_gather = plane_gather;
    t.plane_scatter = plane_scatter;
    t.fractional_max_pool = fractional_max_pool;
    t.conv_fprop_stats = conv_fprop_stats;
    t.bn_stats = bn_stats;
    t.bn_act = bn_act;
    t.bn_act_bwd_reduce = bn_act_bwd_reduce;
    t.bn_act_bwd = bn_act_bwd;
    t.bn_act_grad = bn_act_grad;
    each_operation(&t, RefuseIfEmpty{});
    return t;
  }();
  return kLaunchers;
}

}  // namespace convkit::cuda
