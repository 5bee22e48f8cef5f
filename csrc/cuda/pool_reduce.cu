// max_pool and avg_pool: the largest element or the mean of each window, and the window offset of the largest.
//
// Computes  y[o] = policy over the taps of window o (core/pool_ops.h);  offsets[o] = the chosen tap
// Layout    any; mappings and limits stand in pool_reduce.h, pool_bands.h (planes), pool_columns.h (windows that
//           overlap along H) and pool_large.h (large windows)
#include "cuda/pool_kernels.h"
#include "cuda/pool_large.h"

namespace convkit::cuda {
namespace {

template <typename Policy, bool kOffsets>
Status run(const Pool& g) {
  if (numel(g.y) == 0) return kOk;
  Status status = kFloatingOnly;
  visit_floating(g.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (large_windows_pay(g))
      status = reduce_large<T, kOffsets>(g, Policy{});
    else
      status = columns_pay(g.axes) ? reduce_windows<T, kOffsets, kColumnWindows>(g, Policy{})
                                   : reduce_windows<T, kOffsets>(g, Policy{});
  });
  return status;
}

}  // namespace

Status max_pool(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  Pool g{};
  if (!make_pool(p, x, y, offsets, &g)) return kTooWide;
  return offsets.data != nullptr ? run<MaxOp, true>(g) : run<MaxOp, false>(g);
}

Status avg_pool(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  Pool g{};
  return make_pool(p, x, y, TensorView{}, &g) ? run<AvgOp, false>(g) : kTooWide;
}

}  // namespace convkit::cuda
