// Pixels that conv_gemm's tiles read in place, where their channels are neighbours: no rows of A are made of them.
//
// Such rows hold each pixel once per tap: nine copies of the input for a 3x3 filter, a fourth of the time with 32
// filters. Here each pixel of a block is copied once, zeros around it, and a tile reads its rows of every tap from
// there (gemm_kernel.h: Runs), or of a row of taps, where channels are so few that taps side by side are one run. A
// pointwise convolution's input is read where it lies. A tile ends where a row of the result does, so narrow results
// are packed instead.
#pragma once

#include <type_traits>

#include "cpu/conv_gemm_reads.h"

namespace convkit {
inline namespace CONVKIT_ISA {

constexpr int64_t kMostStagedPixels = 128 * 1024;  // elements: 512 KiB of float, in L2

// Of each section and tap along D, `rows` rows of `columns` pixels of `channels` elements.
struct StagedPixels : ReadRows {
  int64_t channels;

  CONVKIT_INLINE int64_t row() const { return columns * channels; }
  CONVKIT_INLINE int64_t slice() const { return rows * row(); }
  CONVKIT_INLINE int64_t size(const Gather& g) const { return sections * g.tap[0].count * slice(); }
};

// Whether rows of the result fill at least half a tile.
CONVKIT_INLINE bool fills_tiles(const Gather& g) { return 2 * g.out[2] >= kTileRows; }

// The taps that one run covers: of few channels those of a row, where staged pixels follow each other as they do.
template <typename A>
CONVKIT_INLINE int64_t taps_of_run(const Gather& g) {
  return takes_rows_of_taps<A>(g) && g.tap[2].move == 1 ? g.tap[2].count : 1;
}

// Whether pixels may be staged for a convolution's blocks; whether it pays is decided for each.
template <typename A>
CONVKIT_INLINE bool may_stage_pixels(const Gather& g, const TensorView& view) {
  const bool neighbours = view.stride[kC] == 1 || g.depth == 1;
  return g.taps > 1 && neighbours && fills_tiles(g) && (g.depth >= kLanes<A> || taps_of_run<A>(g) > 1);
}

// Whether that copies half as much as packing, or less.
CONVKIT_INLINE bool staging_pays(const StagedPixels& s, const Gather& g, const PixelBlock& block) {
  const int64_t size = s.size(g);
  return size <= kMostStagedPixels && 2 * size <= g.taps * block.count * s.channels;
}

// `in` points to the first of the channels.
template <typename T>
CONVKIT_INLINE void stage_pixels(accumulate_t<T>* dst, const StagedPixels& s, const Gather& g, const TensorView& view,
                                 const T* in, const PixelBlock& block) {
  using A = accumulate_t<T>;
  const int64_t low = s.q * g.stride[2] + s.low[2], step = view.stride[kW];
  const int64_t begin = low < 0 ? minimum(-low, s.columns) : 0;  // of the columns inside the input
  const int64_t end = g.in[2] - low < begin ? begin : minimum(g.in[2] - low, s.columns);
  const auto clear = [&](int64_t first, int64_t last) {
    for (int64_t i = first * s.channels; i < last * s.channels; ++i) dst[i] = A(0);
  };
  for_rows_read(s, g, view, in, block, [&](const T* row) {
    const int64_t first = row != nullptr ? begin : s.columns, last = row != nullptr ? end : s.columns;
    clear(0, first);
    if (step == s.channels) {
      if (last > first) copy_run(dst + first * step, row + (low + first) * step, 1, (last - first) * step);
    } else {
      for (int64_t i = first; i < last; ++i) copy_run(dst + i * s.channels, row + (low + i) * step, 1, s.channels);
    }
    clear(last, s.columns);
    dst += s.row();
  });
}

// The runs of a depth block, each of `run_taps` taps, from the place of a tile's first pixel.
CONVKIT_INLINE Runs staged_runs(int64_t* offset, const StagedPixels& s, const Gather& g, const DepthBlock& d,
                                int64_t run_taps) {
  const int64_t count = d.taps / run_taps;
  for (int64_t r = 0; r < count; ++r) {
    const Tap tap = tap_at(g, d.tap + r * run_taps);
    offset[r] =
        slice_of(g, tap) * s.slice() + (tap.shift[1] - s.low[1]) * s.row() + (tap.shift[2] - s.low[2]) * s.channels;
  }
  return {offset, count, run_taps * s.channels, g.stride[2] * s.channels};
}

// Cuts the segments of a block into tiles of nearly equal height. place(i) is where segment i's first pixel lies,
// `pitch` the elements from pixel to pixel. Returns the number of tiles.
template <typename F>
CONVKIT_INLINE int64_t cut_tiles(RowTile* tiles, const PixelBlock& block, int64_t pitch, const F& place) {
  int64_t number = 0;
  for (int64_t i = 0; i < block.segments; ++i) {
    const Segment& s = block.segment[i];
    const int64_t at = place(i), count = tiles_of(s.length);
    for (int64_t t = 0, row = 0; t < count; ++t) {
      const int64_t height = (s.length - row + count - t - 1) / (count - t);
      tiles[number++] = {at + row * pitch, s.at + row, height};
      row += height;
    }
  }
  return number;
}

CONVKIT_INLINE int64_t tiles_of_staged(RowTile* tiles, const StagedPixels& s, const Gather& g,
                                       const PixelBlock& block) {
  int64_t section = -1, first = 0;
  return cut_tiles(tiles, block, g.stride[2] * s.channels, [&](int64_t i) {
    const Segment& segment = block.segment[i];
    if (starts_section(block, i)) {
      ++section;
      first = segment.start[1];
    }
    return section * g.tap[0].count * s.slice() + (segment.start[1] - first) * s.row() +
           (segment.q - s.q) * g.stride[2] * s.channels;
  });
}

// Whether tiles can read a pointwise convolution's input itself, of elements of the accumulate type. Pixels a page
// apart would all fall into the same few lines of the first-level cache.
template <typename T>
CONVKIT_INLINE bool lies_in_rows(const Gather& g, const TensorView& view) {
  const int64_t pitch = g.stride[2] * view.stride[kW] * dtype_bytes(view.dtype);
  if (!std::is_same_v<T, accumulate_t<T>> || g.taps != 1 || view.stride[kC] != 1 || !fills_tiles(g)) return false;
  for (int i = 0; i < kMaxSpatial; ++i)  // no padding
    if (g.tap[i].origin != 0 || (g.out[i] - 1) * g.stride[i] >= g.in[i]) return false;
  return pitch % 4096 != 0;
}

CONVKIT_INLINE int64_t tiles_in_rows(RowTile* tiles, const Gather& g, const TensorView& view, const PixelBlock& block) {
  return cut_tiles(tiles, block, g.stride[2] * view.stride[kW], [&](int64_t i) { return block.segment[i].in; });
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
