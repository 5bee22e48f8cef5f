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

// Some elements of the planes of two tensors of one shape that follow each other in row-major order, as offsets from
// the planes' starts.
struct Run {
  int64_t count;
  int64_t a, a_step, b, b_step;
};

// Rows [first, last) of D H of two planes as runs of at most `most` elements.
struct Runs {
  int64_t a_strides[3], b_strides[3], a_step, b_step;  // of D, H, W
  int64_t height, first, length, most, per_row, count;

  CONVKIT_INLINE Runs(const TensorView& a, const TensorView& b, int64_t first_row, int64_t last_row, int64_t at_most)
      : height(a.size[kH]), first(first_row), most(at_most), count(0) {
    const bool even = even_steps(a, &a_step) && even_steps(b, &b_step);
    if (!even) a_step = a.stride[kW], b_step = b.stride[kW];
    for (int i = 0; i < 3; ++i) a_strides[i] = a.stride[kD + i], b_strides[i] = b.stride[kD + i];
    const int64_t rows = greater(0, last_row - first_row), width = a.size[kW];
    length = even ? rows * width : width;
    per_row = ceil_div(length, most);
    count = even ? per_row : rows * per_row;
  }
  CONVKIT_INLINE Run operator[](int64_t i) const {
    const int64_t row = first + i / per_row, begin = i % per_row * most;
    const int64_t d = row / height, h = row % height;
    return Run{lesser(most, length - begin), d * a_strides[0] + h * a_strides[1] + begin * a_step, a_step,
               d * b_strides[0] + h * b_strides[1] + begin * b_step, b_step};
  }
};

// How N C planes are cut into blocks: by the problem alone.
struct Blocks {
  int64_t n, c, width, per_image;  // width: channels of a block

  // Blocks of at most `most` channels, all of an image if that is enough; `several`: of few images at least so
  // many that there is work for all threads. Single planes if `most` is 1.
  CONVKIT_INLINE Blocks(int64_t images, int64_t channels, int64_t most, bool several)
      : n(images), c(channels), width(1) {
    constexpr int64_t kEnough = 8, kLine = 16;  // blocks; floats of a cache line
    if (most > 1) {
      const int64_t wanted = greater(several ? ceil_div(kEnough, greater(n, 1)) : 1, ceil_div(c, most));
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
