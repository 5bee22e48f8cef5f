// bn_act: batch normalisation, residual and activation in one pass.
//
// Computes  z = act((x - mean) invstd weight + bias + residual)
// Layout    any strides; vectors run along C where channels of z are neighbours, else along positions. Where a tensor's
//           elements are no neighbours, its vectors are gathered.
// Mapping   a task is 32 k elements: pixels with all channels, or planes (pieces of large ones).
// Memory    each tensor once; 20 bytes per channel in scratch memory.
#include "cpu/activation_lanes.h"
#include "cpu/bn_kernels.h"
#include "cpu/bn_walk.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T, typename Act>
void normalise(const BatchNorm& b, const NormArrays<accumulate_t<T>>& arrays, const Act& act, const TensorView& x,
               const TensorView& z) {
  const bool residual = b.residual.data != nullptr;
  const TensorView* const t[3] = {&x, residual ? &b.residual : &x, &z};
  for_elements<T>(t, channels_are_neighbours(z), arrays,
                  [&](auto dense, const auto& v, T* const(&p)[3], const int64_t (&lane)[3], int n) {
                    auto u = (load_run<dense.value>(p[0], lane[0], n) - v.mean) * v.scale + v.bias;
                    if (residual) u += load_run<dense.value>(p[1], lane[1], n);
                    store_run<dense.value>(p[2], lane[2], act.apply(u), n);
                  });
}

}  // namespace

Status bn_act(const BatchNorm& b, const TensorView& x, const TensorView& z) {
  Status status{"bn_act has no kernel for this dtype"};
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    NormArrays<accumulate_t<T>> arrays;
    status = arrays.fill(b, nullptr, x.size[kC]) ? kOk : Status{"bn_act ran out of memory"};
    if (!status.ok()) return;
    visit_activation(b.activation, b.alpha, [&](const auto& act) { normalise<T>(b, arrays, act, x, z); });
  });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
