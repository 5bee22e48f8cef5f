// What the kernels on flat indices share: planes as runs of elements, and blocks of planes that lie side by side.
//
// A flat index is a row-major position in the D H W plane of one (n, c). A block is what one task works on: one
// plane, or in channels_last some channels of one image, whose elements are neighbours in memory.
#pragma once

#include "cpu/pool_tasks.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

CONVKIT_INLINE int64_t plane_volume(const TensorView& t) { return t.size[kD] * t.size[kH] * t.size[kW]; }

// The distance in memory of positions `from` D H W slices on that follow each other row by row, if there is only one.
CONVKIT_INLINE bool even_steps(const TensorView& t, int64_t* step) {
  *step = 1;
  int64_t expected = 0, count = 1;
  for (int dim = kW; dim >= kD; --dim) {
    if (t.size[dim] == 1) continue;
    if (count == 1)
      *step = t.stride[dim];
    else if (t.stride[dim] != expected)
      return false;
    count *= t.size[dim];
    expected = *step * count;
  }
  return true;
}

// Elements [first, first + count) of the planes of two tensors of the same shape, as offsets from the planes' starts.
struct Run {
  int64_t count;
  int64_t a, a_step, b, b_step;
};

// Calls f(run) for rows [first, last) of D H of the planes, in row-major order, in runs of at most `most` elements.
template <typename F>
CONVKIT_INLINE void for_runs(const TensorView& a, const TensorView& b, int64_t first, int64_t last, int64_t most,
                             const F& f) {
  if (first >= last || a.size[kW] == 0) return;
  Run run{0, 0, 0, 0, 0};
  const bool even = even_steps(a, &run.a_step) && even_steps(b, &run.b_step);
  if (!even) run.a_step = a.stride[kW], run.b_step = b.stride[kW];
  const int64_t width = a.size[kW], rows = even ? 1 : last - first, length = even ? (last - first) * width : width;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t d = (first + i) / a.size[kH], h = (first + i) % a.size[kH];
    const int64_t a_row = d * a.stride[kD] + h * a.stride[kH], b_row = d * b.stride[kD] + h * b.stride[kH];
    for (int64_t begin = 0; begin < length; begin += most) {
      run.count = lesser(most, length - begin);
      run.a = a_row + begin * run.a_step;
      run.b = b_row + begin * run.b_step;
      f(run);
    }
  }
}

// How N C planes are cut into blocks: by the problem alone.
struct Blocks {
  int64_t n, c, width, per_image;  // width: channels of a block

  // Channel blocks of at most `most` channels, a multiple of a cache line's floats; single planes if `most` is 1.
  CONVKIT_INLINE Blocks(int64_t images, int64_t channels, int64_t most) : n(images), c(channels), width(1) {
    constexpr int64_t kEnough = 8, kLine = 16;
    if (most > 1) {
      const int64_t wanted = greater(ceil_div(kEnough, greater(n, 1)), ceil_div(c, most));
      width = lesser(c, round_up(ceil_div(c, wanted), kLine));
    }
    per_image = ceil_div(c, greater(width, 1));
  }
  CONVKIT_INLINE int64_t count() const { return n * per_image; }
  CONVKIT_INLINE int64_t image(int64_t block) const { return block / per_image; }
  CONVKIT_INLINE int64_t channel(int64_t block) const { return block % per_image * width; }
  CONVKIT_INLINE int64_t channels(int64_t block) const { return lesser(width, c - channel(block)); }
};

CONVKIT_INLINE bool side_by_side(const TensorView& t) { return t.stride[kC] == 1 || t.size[kC] == 1; }

// Copies a block of planes to dense[position * channels + c].
template <typename T>
CONVKIT_INLINE void gather_block(const T* from, const TensorView& t, int64_t channels, T* dense) {
  for (int64_t d = 0; d < t.size[kD]; ++d)
    for (int64_t h = 0; h < t.size[kH]; ++h)
      for (int64_t w = 0; w < t.size[kW]; ++w, dense += channels) {
        const T* at = from + d * t.stride[kD] + h * t.stride[kH] + w * t.stride[kW];
        for (int64_t c = 0; c < channels; ++c) dense[c] = at[c];
      }
}

// The other way, rounding to T.
template <typename T, typename A>
CONVKIT_INLINE void spread_block(const A* dense, const TensorView& t, int64_t channels, T* to) {
  for (int64_t d = 0; d < t.size[kD]; ++d)
    for (int64_t h = 0; h < t.size[kH]; ++h)
      for (int64_t w = 0; w < t.size[kW]; ++w, dense += channels) {
        T* at = to + d * t.stride[kD] + h * t.stride[kH] + w * t.stride[kW];
        for (int64_t c = 0; c < channels; ++c) {
          if constexpr (sizeof(A) == sizeof(T))
            at[c] = dense[c];
          else
            store(at + c, dense[c]);
        }
      }
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
