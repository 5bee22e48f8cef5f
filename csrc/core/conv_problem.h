// One convolution, in fprop's terms; fprop, dgrad and wgrad of it share this struct.
#pragma once

#include "core/spatial.h"
#include "core/tensor_view.h"

namespace convkit {

enum class PaddingMode : int64_t { kZeros, kReplicate, kReflect, kCircular, kMean };

enum class ConvOp : int64_t { kFprop, kDgrad, kWgrad };

struct ConvProblem {
  int64_t n, c, k;  // batch, input channels, output channels
  int64_t groups;
  Spatial in;      // D H W
  Spatial filter;  // T R S
  Spatial out;     // O P Q: what fits, or (dgrad, wgrad) less: windows at the end may be missing
  Spatial stride, pad_before, pad_after, dilation;
  PaddingMode padding_mode;
  bool allow_tf32;    // a float32 product may be that of operands rounded to TF32
  int64_t algorithm;  // 0: the table chooses; i: the i-th algorithm of the table (from 1), or a refusal
};

// The three tensors of a convolution; dx, dw and dy stand at the places of x, w and y.
struct ConvTensors {
  const TensorView &x, &w, &y;
};

inline namespace CONVKIT_ISA {

// floor((L + before + after - d(k-1) - 1) / s) + 1; may be zero or negative for what does not fit.
CONVKIT_INLINE int64_t conv_output_size(int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after,
                                        int64_t dilation) {
  const int64_t span = length + before + after - dilation * (kernel - 1) - 1;
  return span < 0 ? 0 : span / stride + 1;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
