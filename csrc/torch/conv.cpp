// The convolution operators.
#include "torch/conv.h"

namespace convkit::binding {
namespace {

void check_same(bool same, const char* what) { STD_TORCH_CHECK(same, "convkit: ", what); }

}  // namespace

Tensor conv_fprop(const Tensor& x, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& packed, double alpha) {
  const ConvSpec spec = unpack_conv(packed);
  const TensorView xv = view(x, spec.spatial_dims, "x"), wv = view(w, spec.spatial_dims, "w");
  check_same(xv.dtype == wv.dtype, "'x' and 'w' must have one dtype");
  check_same(wv.size[kC] * spec.groups == xv.size[kC], "'w' must have C / groups channels");
  const ConvProblem p = conv_problem(spec, xv.size[kN], xv.size[kC], wv.size[kN], spatial_of(xv), spatial_of(wv));
  Result y = allocate(x, x.scalar_type(), spec.spatial_dims, p.n, p.k, p.out, spec.channels_last);
  check(cpu::launchers().conv_fprop(p, xv, wv, epilogue(bias, scale, residual, spec, alpha, y.view), y.view));
  return y.tensor;
}

Tensor conv_dgrad(const Tensor& dy, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& input_size, const Ints& packed, double alpha) {
  const ConvSpec spec = unpack_conv(packed);
  const TensorView dyv = view(dy, spec.spatial_dims, "dy"), wv = view(w, spec.spatial_dims, "w");
  check_same(dyv.dtype == wv.dtype, "'dy' and 'w' must have one dtype");
  check_same(wv.size[kN] == dyv.size[kC], "'w' must have as many filters as 'dy' has channels");
  check_same(input_size.size() == static_cast<size_t>(spec.spatial_dims), "'input_size' has the wrong length");
  const ConvProblem p = conv_problem(spec, dyv.size[kN], wv.size[kC] * spec.groups, wv.size[kN],
                                     spatial_from(input_size), spatial_of(wv));
  for (int i = 0; i < kMaxSpatial; ++i)
    check_same(p.out[i] == spatial_of(dyv)[i], "'dy' does not have the size that 'input_size' leads to");
  Result dx = allocate(dy, dy.scalar_type(), spec.spatial_dims, p.n, p.c, p.in, spec.channels_last);
  check(cpu::launchers().conv_dgrad(p, dyv, wv, epilogue(bias, scale, residual, spec, alpha, dx.view), dx.view));
  return dx.tensor;
}

Tensor conv_wgrad(const Tensor& dy, const Tensor& x, const Ints& kernel_size, const Ints& packed) {
  const ConvSpec spec = unpack_conv(packed);
  const TensorView dyv = view(dy, spec.spatial_dims, "dy"), xv = view(x, spec.spatial_dims, "x");
  check_same(dyv.dtype == xv.dtype, "'dy' and 'x' must have one dtype");
  check_same(dyv.size[kN] == xv.size[kN], "'dy' and 'x' must have one batch size");
  check_same(kernel_size.size() == static_cast<size_t>(spec.spatial_dims), "'kernel_size' has the wrong length");
  const ConvProblem p =
      conv_problem(spec, xv.size[kN], xv.size[kC], dyv.size[kC], spatial_of(xv), spatial_from(kernel_size));
  for (int i = 0; i < kMaxSpatial; ++i)
    check_same(p.out[i] == spatial_of(dyv)[i], "'dy' does not have the size that 'x' and 'kernel_size' lead to");
  Result dw = allocate(dy, dy.scalar_type(), spec.spatial_dims, p.k, p.c / p.groups, p.filter, spec.channels_last);
  check(cpu::launchers().conv_wgrad(p, dyv, xv, dw.view));
  return dw.tensor;
}

Tensor conv_bgrad(const Tensor& dy) {
  const TensorView dyv = view(dy, static_cast<int>(dy.dim()) - 2, "dy");
  Result db = allocate(dy, dy.scalar_type(), 1, 1, dyv.size[kC], Spatial{{1, 1, 1}}, false);
  check(cpu::launchers().conv_bgrad(dyv, db.view));
  return torch::stable::reshape(db.tensor, {dyv.size[kC]});
}

}  // namespace convkit::binding
