// What the next product reads, asked for while this one is computed.
//
// Packing waits for memory, multiplying does not touch it: one after the other they leave the memory idle half of the
// time, where each element of the input meets few filters. So the steps of the micro-kernel ask for the pixels that are
// packed next (gemm_kernel.h), of pointwise convolutions of channels_last tensors, where they follow in memory. (Lines
// of planes, each in a page of its own, come later by this, not sooner.)
#pragma once

#include "cpu/conv_gemm_pixels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

template <typename T>
struct NextPixels {
  static constexpr int64_t kLine = 64;
  const T* in = nullptr;
  int64_t bytes = 0;             // 0: nothing is asked for
  int64_t depth = 0, tiles = 0;  // steps of a tile's product, and tiles of a panel

  // A line per step, one tile after the other.
  CONVKIT_INLINE const char* operator()(int64_t tile, int64_t panel) const {
    const int64_t at = (panel * tiles + tile) * depth * kLine;
    return at < bytes ? reinterpret_cast<const char*>(in) + at : nullptr;
  }
};

// Those that follow pixels [begin, begin + count), whose product is over depth block `d`. `in` points to the group's
// first channel; `tiles` as multiply() cuts the pixels.
template <typename T>
CONVKIT_INLINE NextPixels<T> next_pixels(const Gather& g, const TensorView& view, const T* in, const DepthBlock& d,
                                         int64_t begin, int64_t count, int64_t tiles) {
  const int64_t left = g.n * g.out[2] - begin - count;
  const bool pointwise = g.taps == 1 && g.stride[2] == 1 && g.in[2] == g.out[2] && volume(g.out) == g.out[2];
  const bool in_a_row = view.stride[kC] == 1 && view.stride[kW] == g.depth && view.stride[kN] == g.depth * g.out[2];
  if (!pointwise || !in_a_row || d.channels != g.depth || left <= 0) return {};
  const int64_t elements = minimum(count, left) * g.depth;
  return {in + (begin + count) * g.depth, elements * static_cast<int64_t>(sizeof(T)), g.depth, tiles};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
