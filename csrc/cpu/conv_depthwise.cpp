// conv_depthwise: one filter, or a few, per channel; chooses between vectors along W and along C.
#include "cpu/conv_depthwise.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Planes up to `small` positions are worth turning: vectors along W are partly empty there, and those along C need
// fewer loads. What is turned should stay in L2. The numbers were measured; 16-bit types are turned one by one.
bool along_channels(const ConvProblem& p, const TensorView& a, const TensorView& b, int64_t small) {
  if (p.k != p.c || p.c < channel_lanes(a.dtype)) return false;
  if (has_channel_vectors(a) && has_channel_vectors(b)) return true;
  const bool narrow = a.dtype == DType::kFloat16 || a.dtype == DType::kBFloat16;
  if (narrow) small = 400;
  return volume(p.in) <= small && volume(p.out) <= small;
}

constexpr int64_t kSmallPlane = 1600, kSmallPlaneOfWgrad = 800;

}  // namespace

const char* conv_depthwise_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_depthwise reads zero padding only";
  if (p.groups != p.c || p.k == 0) return "conv_depthwise needs as many groups as input channels";
  if (!visit_floating(t.x.dtype, [](auto) {})) return "conv_depthwise has no kernel for this dtype";
  if (p.algorithm == 0 && op == ConvOp::kFprop && t.y.stride[kC] == 1 && p.k / p.c >= channel_lanes(t.y.dtype))
    return "conv_depthwise would write whole vectors of neighbouring channels one by one";
  return nullptr;
}

Status conv_fprop_depthwise(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                            const TensorView& y) {
  if (numel(y) == 0) return kOk;
  return along_channels(p, x, y, kSmallPlane) ? depthwise_channels(p, false, x, w, e, y)
                                              : depthwise_planar(p, false, x, w, e, y);
}

Status conv_dgrad_depthwise(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                            const TensorView& dx) {
  if (numel(dx) == 0) return kOk;
  return along_channels(p, dy, dx, kSmallPlane) ? depthwise_channels(p, true, dy, w, e, dx)
                                                : depthwise_planar(p, true, dy, w, e, dx);
}

Status conv_wgrad_depthwise(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return along_channels(p, dy, x, kSmallPlaneOfWgrad) ? depthwise_wgrad_channels(p, dy, x, dw)
                                                      : depthwise_wgrad_planar(p, dy, x, dw);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
