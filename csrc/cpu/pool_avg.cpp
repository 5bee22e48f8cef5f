// avg_pool: the sum of each window over its divisor, and the adjoint.
//
// Computes  y[o] = sum over taps of x / divisor(o);  dx[i] = sum over the windows o that read i of dy[o] / divisor(o)
// Mapping   as max_pool.
// Limits    floating dtypes and int64 (truncating division).
#include "cpu/pool_channels.h"
#include "cpu/pool_columns.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_plane.h"
#include "cpu/pool_rows.h"
#include "cpu/pool_rows_bwd.h"
#include "cpu/pool_tiles.h"
#include "cpu/pool_turned.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename F>
CONVKIT_INLINE Status visit_averaging(DType dtype, const F& run) {
  Status status = kOk;
  const auto keep = [&](auto t) { status = run(t); };
  if (visit_floating(dtype, keep)) return status;
  if (dtype == DType::kInt64) return run(Type<int64_t>{});
  return {"avg_pool has no kernel for this dtype"};
}

}  // namespace

Status avg_pool(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  return visit_averaging(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const TensorView none{};
    if (channels_apply<AvgOp, T, false>(x, y, none)) return pool_channels<AvgOp, T, false>(p, x, y, none);
    if (plane_applies(p, x)) return pool_plane<AvgOp, T, false>(p, x, y, none);
    const bool tiles = tiles_apply(p, x, y, none);
    if (turning_pays<T>(p, x, y, none, tiles)) return pool_turned<AvgOp, T, false>(p, x, y, none);
    if (tiles) return pool_tiles<AvgOp, T, false>(p, x, y, none);
    if (columns_apply(p)) return pool_columns<AvgOp, T, false>(p, x, y, none);
    return pool_rows<AvgOp, T, false>(p, x, y, none);
  });
}

Status avg_pool_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& dx) {
  return visit_averaging(dy.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const TensorView none{};
    if (channels_gather_apply<T, false>(dy, none, dx)) return gather_channels<AvgBwd, T>(p, dy, none, dx);
    if (plane_applies(p, dx)) return spread_plane<AvgBwd, T>(p, dy, none, dx);
    const bool tiles = tiles_apply(p, dx, dy, none);
    if (turning_back_pays<T>(p, dy, dx, none, tiles)) return gather_turned<AvgBwd, T>(p, dy, none, dx);
    if (tiles) return spread_tiles<T, false>(p, dy, none, dx);
    return gather_rows<AvgBwd, T>(p, dy, none, dx);
  });
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
