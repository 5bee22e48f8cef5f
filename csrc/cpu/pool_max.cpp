// max_pool: the largest element of each window, and its window offset.
//
// Computes  y[o] = max over taps of x, offset[o] = the chosen tap (first of ties; the last NaN wins)
// Mapping   pool_channels.h for channels_last, pool_plane.h for windows that are a whole plane, pool_turned.h for short
//           rows, pool_tiles.h for windows of two columns that tile the input, pool_columns.h for adaptive windows and
//           large strides, else pool_rows.h.
// Limits    none: every dtype but complex, any strides, kernel, dilation and padding.
#include "cpu/pool_channels.h"
#include "cpu/pool_columns.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_plane.h"
#include "cpu/pool_rows.h"
#include "cpu/pool_tiles.h"
#include "cpu/pool_turned.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T, bool kOffsets>
Status run(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  if (channels_apply<MaxOp, T, kOffsets>(x, y, offsets)) return pool_channels<MaxOp, T, kOffsets>(p, x, y, offsets);
  if (plane_applies(p, x)) return pool_plane<MaxOp, T, kOffsets>(p, x, y, offsets);
  const bool tiles = tiles_apply(p, x, y, offsets);
  if (turning_pays<T>(p, x, y, offsets, tiles)) return pool_turned<MaxOp, T, kOffsets>(p, x, y, offsets);
  if (tiles) return pool_tiles<MaxOp, T, kOffsets>(p, x, y, offsets);
  if (columns_apply(p)) return pool_columns<MaxOp, T, kOffsets>(p, x, y, offsets);
  return pool_rows<MaxOp, T, kOffsets>(p, x, y, offsets);
}

}  // namespace

Status max_pool(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  Status status = kOk;
  const auto visit = [&](auto t) {
    using T = typename decltype(t)::type;
    status = offsets.data != nullptr ? run<T, true>(p, x, y, offsets) : run<T, false>(p, x, y, offsets);
  };
  if (visit_floating(x.dtype, visit) || visit_integral(x.dtype, visit)) return status;
  return {"max_pool has no kernel for this dtype"};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
