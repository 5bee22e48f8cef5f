// The rows of the input that a block of pixels reads, of all its taps, padding included.
//
// Sections are the parts of a block that lie in different (n, o) planes of the result.
#pragma once

#include "cpu/conv_gemm_pixels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Of each section and tap along D: `rows` rows of `columns` pixels, the first of which the results of row and column
// (first of the section, q) read.
struct ReadRows {
  int64_t low[kMaxSpatial];  // the least shift of a tap
  int64_t q, columns;        // the rows' first result, and the columns that its results read
  int64_t sections, rows;
};

CONVKIT_INLINE int64_t least_shift(const TapAxis& t) { return t.origin + (t.move < 0 ? (t.count - 1) * t.move : 0); }
CONVKIT_INLINE int64_t span(const TapAxis& t) { return (t.count - 1) * (t.move < 0 ? -t.move : t.move); }

CONVKIT_INLINE bool starts_section(const PixelBlock& block, int64_t i) {
  return i == 0 || block.segment[i].start[1] == 0;
}

CONVKIT_INLINE ReadRows read_rows(const Gather& g, const PixelBlock& block) {
  ReadRows s{};
  for (int i = 0; i < kMaxSpatial; ++i) s.low[i] = least_shift(g.tap[i]);
  const bool one = block.segments == 1;
  s.q = one ? block.segment[0].q : 0;
  s.columns = ((one ? block.count : g.out[2]) - 1) * g.stride[2] + span(g.tap[2]) + 1;
  int64_t first = 0;
  for (int64_t i = 0; i < block.segments; ++i) {
    if (starts_section(block, i)) {
      first = block.segment[i].start[1];
      ++s.sections;
    }
    const int64_t rows = block.segment[i].start[1] - first + span(g.tap[1]) + 1;
    if (rows > s.rows) s.rows = rows;
  }
  return s;
}

// f(where the row's pixel of column 0 lies, or nullptr where the row is padding) for all rows in order. `in` points to
// a channel.
template <typename T, typename F>
CONVKIT_INLINE void for_rows_read(const ReadRows& s, const Gather& g, const TensorView& view, const T* in,
                                  const PixelBlock& block, const F& f) {
  for (int64_t i = 0; i < block.segments; ++i) {
    if (!starts_section(block, i)) continue;
    const Segment& first = block.segment[i];
    const T* origin = in + first.in - first.start[2] * view.stride[kW];
    for (int64_t t = 0; t < g.tap[0].count; ++t) {
      const int64_t d = g.tap[0].origin + t * g.tap[0].move, slice = first.start[0] + d;
      for (int64_t r = 0; r < s.rows; ++r) {
        const int64_t h = s.low[1] + r, row = first.start[1] + h;
        const bool inside = slice >= 0 && slice < g.in[0] && row >= 0 && row < g.in[1];
        f(inside ? origin + d * view.stride[kD] + h * view.stride[kH] : nullptr);
      }
    }
  }
}

// The number of a tap's first slice along D.
CONVKIT_INLINE int64_t slice_of(const Gather& g, const Tap& tap) {
  return (tap.shift[0] - g.tap[0].origin) / (g.tap[0].move != 0 ? g.tap[0].move : 1);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
