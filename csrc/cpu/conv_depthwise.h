// Shared by the depthwise and grouped convolution files: which tensors which variant reads, and the variants
// themselves.
#pragma once

#include "cpu/conv_kernels.h"
#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {

CONVKIT_INLINE int64_t channel_lanes(DType t) { return t == DType::kFloat64 ? lanes_of<double>() : lanes_of<float>(); }

// Whether the channel variants read `t`: at least a vector of neighbouring channels.
CONVKIT_INLINE bool has_channel_vectors(const TensorView& t) {
  return t.stride[kC] == 1 && t.size[kC] >= channel_lanes(t.dtype);
}

// First channel of a vector: the last one overlaps its neighbour rather than leave the tensor.
template <typename T>
CONVKIT_INLINE int64_t vector_channel(int64_t channels, int64_t vector) {
  const int64_t c = vector * lanes_of<T>();
  return c + lanes_of<T>() <= channels ? c : channels - lanes_of<T>();
}

// The vectors of a tensor's channels in `count` blocks of about equal size. Two vectors that overlap are always
// in one block, so that no two tasks write the same element.
struct VectorBlocks {
  int64_t vectors, count, most;
  CONVKIT_INLINE int64_t begin(int64_t block) const { return block * vectors / count; }
};

CONVKIT_INLINE VectorBlocks vector_blocks(int64_t vectors, int64_t wanted) {
  const int64_t size = wanted < 2 ? 2 : wanted;
  const int64_t count = vectors < size ? 1 : vectors / size;
  return {vectors, count, (vectors + count - 1) / count};
}

// fprop and dgrad. `source` is x (fprop) or dy (dgrad), `result` y or dx.
Status depthwise_planar(const ConvProblem&, bool adjoint, const TensorView& source, const TensorView& w,
                        const Epilogue&, const TensorView& result);
Status depthwise_channels(const ConvProblem&, bool adjoint, const TensorView& source, const TensorView& w,
                          const Epilogue&, const TensorView& result);

// fprop and dgrad in groups of several channels, with vectors along the result's; only where it fits.
bool grouped_channels_fits(const ConvProblem&, bool adjoint, const TensorView& source, const TensorView& result);
Status grouped_channels(const ConvProblem&, bool adjoint, const TensorView& source, const TensorView& w,
                        const Epilogue&, const TensorView& result);

Status depthwise_wgrad_planar(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
Status depthwise_wgrad_channels(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);

}  // namespace CONVKIT_ISA
}  // namespace convkit
