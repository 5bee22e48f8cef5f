// max_pool and avg_pool: the largest element or the mean of each window, and the window offset of the largest.
//
// Computes  y[o] = policy over the taps of window o (core/pool_ops.h);  offsets[o] = the chosen tap
// Layout    any; two kernels, whose mappings and limits stand with them: pool_columns.h where windows overlap along H,
//           pool_reduce.h for all others
#include "cuda/pool_columns.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

template <typename Policy, bool kOffsets>
Status run(const Pool& g) {
  if (numel(g.y) == 0) return kOk;
  Status status = kFloatingOnly;
  visit_floating(g.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = columns_pay(g.axes) ? reduce_columns<Policy, T, kOffsets>(g) : reduce_windows<T, kOffsets>(g, Policy{});
  });
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
