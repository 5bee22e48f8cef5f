// conv_depthwise: chooses between the planar and the channels-last kernels.
#include "cpu/conv_depthwise.h"

namespace convkit {
inline namespace CONVKIT_ISA {

const char* conv_depthwise_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_depthwise reads zero padding only";
  if (p.groups != p.c || p.c == 0) return "conv_depthwise needs as many groups as input channels";
  if (!visit_floating(t.x.dtype, [](auto) {})) return "conv_depthwise has no kernel for this dtype";
  if (op == ConvOp::kWgrad) return "conv_depthwise has no wgrad yet";
  return nullptr;
}

Status conv_fprop_depthwise(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                            const TensorView& y) {
  return depthwise_planar(p, false, x, w, e, y);
}

Status conv_dgrad_depthwise(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                            const TensorView& dx) {
  return depthwise_planar(p, true, dy, w, e, dx);
}

Status conv_wgrad_depthwise(const ConvProblem&, const TensorView&, const TensorView&, const TensorView&) {
  return {"conv_depthwise has no wgrad yet"};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
