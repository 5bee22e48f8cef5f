// bn_act_bwd: the gradient of bn_act in x and in the residual, given its sums over each channel.
//
// Computes  dx = invstd weight (g - dbias / count - (x - mean) invstd dweight / count), dresidual = g = dz act'(v), and
//           v, what the activation was given, from x again.
// Layout, mapping, memory  as bn_act's; dx leads.
#include "cpu/activation_lanes.h"
#include "cpu/bn_kernels.h"
#include "cpu/bn_walk.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T, typename Act>
void differentiate(const BatchNorm& b, bool batch, const NormArrays<accumulate_t<T>>& arrays, const Act& act,
                   const TensorView& dz, const TensorView& x, const TensorView& dx, const TensorView& dresidual) {
  const bool residual = b.residual.data != nullptr, wanted = dresidual.data != nullptr;
  const TensorView* const t[5] = {&x, &dz, residual ? &b.residual : &x, &dx, wanted ? &dresidual : &dx};
  for_elements<T>(t, channels_are_neighbours(dx), arrays,
                  [&](auto dense, const auto& v, T* const(&p)[5], const int64_t (&lane)[5], int n) {
                    const auto centred = load_run<dense.value>(p[0], lane[0], n) - v.mean;
                    auto u = centred * v.scale + v.bias;
                    if (Act::kReadsValue && residual) u += load_run<dense.value>(p[2], lane[2], n);
                    const auto g = act.gradient(u, load_run<dense.value>(p[1], lane[1], n));
                    if (wanted) store_run<dense.value>(p[4], lane[4], g, n);
                    auto r = g * v.scale;
                    if (batch) r += centred * v.slope + v.constant;
                    store_run<dense.value>(p[3], lane[3], r, n);
                  });
}

}  // namespace

Status bn_act_bwd(const BatchNorm& b, const BatchNormSums& sums, const TensorView& dz, const TensorView& x,
                  const TensorView& dx, const TensorView& dresidual) {
  Status status{"bn_act_bwd has no kernel for this dtype"};
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    NormArrays<accumulate_t<T>> arrays;
    status = arrays.fill(b, &sums, x.size[kC]) ? kOk : Status{"bn_act_bwd ran out of memory"};
    if (!status.ok()) return;
    visit_activation(b.activation, b.alpha,
                     [&](const auto& act) { differentiate<T>(b, sums.count != 0, arrays, act, dz, x, dx, dresidual); });
  });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
