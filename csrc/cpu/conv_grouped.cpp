// conv_grouped: convolution in groups of few channels, where a matrix tile would be mostly empty.
//
// Computes  what conv_gemm computes, group by group, with the planar sliding kernels of depthwise convolution: a
//           group's source channels are staged together, each result channel is the sum over all of them.
// Layout    any strides; NCHW is the case it is made for.
// Mapping   that of conv_depthwise_planar.cpp and conv_depthwise_wgrad_planar.cpp, with more planes.
// Limits    at most 8 channels per group on either side (wgrad: 32); zero padding, floating dtypes. Chosen by itself
//           for fprop and dgrad only where a row fills half a vector.
#include "cpu/conv_depthwise.h"

namespace convkit {
inline namespace CONVKIT_ISA {

const char* conv_grouped_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  const int64_t most = op == ConvOp::kWgrad ? 32 : 8;
  if (p.padding_mode != PaddingMode::kZeros) return "conv_grouped reads zero padding only";
  if (!visit_floating(t.x.dtype, [](auto) {})) return "conv_grouped has no kernel for this dtype";
  if (p.groups < 2 || p.c == 0 || p.k == 0 || p.c / p.groups > most || p.k / p.groups > most)
    return "conv_grouped needs groups of at most 8 channels, in wgrad 32";
  if (p.algorithm == 0 && op != ConvOp::kWgrad && p.out[2] < channel_lanes(t.x.dtype) / 2)
    return "conv_grouped would leave most of its vectors empty";
  return nullptr;
}

Status conv_fprop_grouped(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                          const TensorView& y) {
  return numel(y) == 0 ? kOk : depthwise_planar(p, false, x, w, e, y);
}

Status conv_dgrad_grouped(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                          const TensorView& dx) {
  return numel(dx) == 0 ? kOk : depthwise_planar(p, true, dy, w, e, dx);
}

Status conv_wgrad_grouped(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return depthwise_wgrad_planar(p, dy, x, dw);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
