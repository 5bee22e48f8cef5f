// max_pool and avg_pool: the largest element or the mean of each window, and the window offset of the largest.
//
// Computes  y[o] = policy over the taps of window o (core/pool_ops.h);  offsets[o] = the chosen tap
// Layout    any; the kernel, its mapping and its limits stand in pool_reduce.h
#include "cuda/pool_kernels.h"
#include "cuda/pool_reduce.h"

namespace convkit::cuda {
namespace {

template <typename Policy, bool kOffsets>
Status run(const Pool& g) {
  if (numel(g.y) == 0) return kOk;
  Status status = kFloatingOnly;
  visit_floating(g.x.dtype,
                 [&](auto t) { status = reduce_windows<typename decltype(t)::type, kOffsets>(g, Policy{}); });
  return status;
}

}  // namespace

Status max_pool(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  Pool g{{}, x, y, offsets, offset_bytes(p)};
  if (!narrow(p, &g.axes)) return kTooWide;
  return offsets.data != nullptr ? run<MaxOp, true>(g) : run<MaxOp, false>(g);
}

Status avg_pool(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  Pool g{{}, x, y, TensorView{}, 0};
  return narrow(p, &g.axes) ? run<AvgOp, false>(g) : kTooWide;
}

}  // namespace convkit::cuda
