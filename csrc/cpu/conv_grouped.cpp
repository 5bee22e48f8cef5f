// conv_grouped: convolution in groups of few channels, where a matrix tile would be mostly empty.
//
// Computes  what conv_gemm computes, group by group, without packing the source.
// Layout    channels_last: vectors along the result's channels (conv_grouped_channels.cpp). Any other strides: the
//           planar sliding kernels of depthwise convolution; a group's source channels are staged together, each result
//           channel is the sum over all of them.
// Limits    at most 64 channels per group on either side in the first form, 8 in the second (wgrad: 32); zero padding,
//           floating dtypes. The planar form is chosen by itself for fprop and dgrad only where a row fills half a
//           vector.
#include "cpu/conv_depthwise.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kMostChannels = 64, kMostPlanar = 8, kMostWgrad = 32;

bool at_most(const ConvProblem& p, int64_t channels) {
  return p.c / p.groups <= channels && p.k / p.groups <= channels;
}

bool along_channels(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& result) {
  return at_most(p, kMostChannels) && grouped_channels_fits(p, adjoint, source, result);
}

}  // namespace

const char* conv_grouped_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_grouped reads zero padding only";
  if (!visit_floating(t.x.dtype, [](auto) {})) return "conv_grouped has no kernel for this dtype";
  if (p.groups < 2 || p.c == 0 || p.k == 0) return "conv_grouped needs more than one group";
  if (op == ConvOp::kWgrad)
    return at_most(p, kMostWgrad) ? nullptr : "conv_grouped needs groups of at most 32 channels in wgrad";
  const bool adjoint = op == ConvOp::kDgrad;
  if (along_channels(p, adjoint, adjoint ? t.y : t.x, adjoint ? t.x : t.y)) return nullptr;
  if (!at_most(p, kMostPlanar)) return "conv_grouped needs groups of at most 8 channels, in channels_last up to 64";
  if (p.algorithm == 0 && p.out[2] < channel_lanes(t.x.dtype) / 2)
    return "conv_grouped would leave most of its vectors empty";
  return nullptr;
}

Status conv_fprop_grouped(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                          const TensorView& y) {
  if (numel(y) == 0) return kOk;
  return along_channels(p, false, x, y) ? grouped_channels(p, false, x, w, e, y)
                                        : depthwise_planar(p, false, x, w, e, y);
}

Status conv_dgrad_grouped(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                          const TensorView& dx) {
  if (numel(dx) == 0) return kOk;
  return along_channels(p, true, dy, dx) ? grouped_channels(p, true, dy, w, e, dx)
                                         : depthwise_planar(p, true, dy, w, e, dx);
}

Status conv_wgrad_grouped(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return depthwise_wgrad_planar(p, dy, x, dw);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
