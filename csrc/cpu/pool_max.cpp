// max_pool: the largest element of each window, and its window offset.
//
// Computes  y[o] = max over taps of x, offset[o] = the chosen tap (first of ties; the last NaN wins)
// Mapping   pool_channels.h for channels_last, pool_plane.h for windows that are a whole plane, else pool_rows.h.
// Limits    none: every dtype but complex, any strides, kernel, dilation and padding.
#include "cpu/kernels.h"
#include "cpu/pool_rows.h"

namespace convkit {
inline namespace CONVKIT_ISA {

Status max_pool(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  Status status = kOk;
  const auto run = [&](auto t) {
    using T = typename decltype(t)::type;
    status = offsets.data != nullptr ? pool_rows<MaxOp, T, true>(p, x, y, offsets)
                                     : pool_rows<MaxOp, T, false>(p, x, y, offsets);
  };
  if (visit_floating(x.dtype, run) || visit_integral(x.dtype, run)) return status;
  return {"max_pool has no kernel for this dtype"};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
