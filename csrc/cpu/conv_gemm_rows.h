// Zero-padded copies of input rows, from which conv_gemm packs the pixels of gathers with few channels.
//
// To decide for every tap which pixels of a segment lie inside the input costs as much as copying one channel of them,
// and a stride costs twice that. With few channels (a network's first layer) that is a third of the time. Here the
// rows that a block of pixels reads are copied once, zeros around them, each with columns a stride apart beside each
// other: every tap of a segment is then a run of neighbours at the segment's place plus the tap's.
#pragma once

#include "cpu/conv_gemm_reads.h"
#include "cpu/conv_stage.h"

namespace convkit {
inline namespace CONVKIT_ISA {

constexpr int64_t kMostStaged = 32 * 1024;  // elements: 128 KiB of float, in L2 with both operands

// Staged are, of each channel, section and tap along D, `rows` rows of `step` parts of `pitch` elements.
struct StagedRows : ReadRows {
  int64_t step, pitch;

  CONVKIT_INLINE int64_t row() const { return step * pitch; }
  CONVKIT_INLINE int64_t slice() const { return rows * row(); }
};

template <typename A>
CONVKIT_INLINE StagedRows make_staged(const Gather& g, const PixelBlock& block) {
  StagedRows s{read_rows(g, block), g.stride[2], 0};
  s.pitch = round_up((s.columns - 1) / s.step + 1 + kLanes<A>, kLanes<A>);
  return s;
}

CONVKIT_INLINE int64_t staged_size(const StagedRows& s, const Gather& g) {
  return s.sections * g.tap[0].count * s.slice();
}

// Whether staging a channel costs less than it saves: each staged element serves several taps, and few channels share
// what is decided per tap.
CONVKIT_INLINE bool staging_pays(const StagedRows& s, const Gather& g, const PixelBlock& block, const DepthBlock& d) {
  const int64_t size = staged_size(s, g);
  return d.channels <= 8 && size <= kMostStaged && 2 * size <= d.taps * block.count;
}

// One channel, whose element at the origin is in[0]. `dst` has room for a vector on either side.
template <typename T>
CONVKIT_INLINE void stage_channel(accumulate_t<T>* dst, const StagedRows& s, const Gather& g, const TensorView& view,
                                  const T* in, const PixelBlock& block) {
  for_rows_read(s, g, view, in, block, [&](const T* row) {
    stage_row(row != nullptr ? row : in, view.stride[kW], row != nullptr ? g.in[2] : 0, s.q * g.stride[2] + s.low[2],
              s.columns, dst, s.step, s.pitch);
    dst += s.row();
  });
}

// Where a tap's elements begin, from those of a segment's first pixel.
CONVKIT_INLINE int64_t staged_tap(const StagedRows& s, const Gather& g, int64_t t) {
  const Tap tap = tap_at(g, t);
  const int64_t h = tap.shift[1] - s.low[1], w = tap.shift[2] - s.low[2];
  return slice_of(g, tap) * s.slice() + h * s.row() + w % s.step * s.pitch + w / s.step;
}

// The pieces of every tap, relative to its place. None is masked when it is read.
template <typename A>
CONVKIT_INLINE int64_t make_staged_pieces(Piece* pieces, const StagedRows& s, const Gather& g, const PixelBlock& block,
                                          int64_t panel_pitch) {
  Piece* piece = pieces;
  int64_t section = -1, first = 0;
  for (int64_t i = 0; i < block.segments; ++i) {
    const Segment& segment = block.segment[i];
    if (starts_section(block, i)) {
      ++section;
      first = segment.start[1];
    }
    const int64_t at = section * g.tap[0].count * s.slice() + (segment.start[1] - first) * s.row() + segment.q - s.q;
    for_vectors<A>(segment.at, segment.length, [&](int64_t v, int64_t begin, int64_t end) {
      *piece++ = {at + v - segment.at, panel_place<A>(v, panel_pitch), 0, lane_mask(begin, end)};
    });
  }
  return piece - pieces;
}

// dst[panel][channel * taps + tap][pixel]: panels of B from data whose pixels are to be neighbours. `in` points to the
// group's first channel; `pieces` and `staged` are scratch memory.
template <typename T>
CONVKIT_INLINE void pack_pixel_panels(accumulate_t<T>* dst, Piece* pieces, accumulate_t<T>* staged, const Gather& g,
                                      const TensorView& view, const T* in, const PixelBlock& block,
                                      const DepthBlock& d) {
  using A = accumulate_t<T>;
  const int64_t panel_pitch = d.size() * kPanel<A>, step = g.stride[2] * view.stride[kW];
  const auto channel = [&](int64_t c) { return in + (d.channel + c) * view.stride[kC]; };
  const auto row = [&](int64_t c, int64_t t) { return dst + (c * d.taps + t) * kPanel<A>; };
  const StagedRows rows = make_staged<A>(g, block);
  if (!staging_pays(rows, g, block, d)) {
    for (int64_t t = 0; t < d.taps; ++t) {
      const int64_t count = make_pieces<A>(pieces, g, view, block, d.tap + t, panel_pitch);
      for (int64_t c = 0; c < d.channels; ++c) copy_pieces(row(c, t), channel(c), pieces, count, step, view.stride[kC]);
    }
    return;
  }
  const int64_t count = make_staged_pieces<A>(pieces, rows, g, block, panel_pitch);
  const Piece tail = tail_piece<A>(block, panel_pitch);
  for (int64_t c = 0; c < d.channels; ++c) {
    stage_channel(staged + kLanes<A>, rows, g, view, channel(c), block);
    for (int64_t t = 0; t < d.taps; ++t) {
      A* to = row(c, t);
      const A* from = staged + kLanes<A> + staged_tap(rows, g, d.tap + t);
      for (int64_t i = 0; i < count; ++i)
        store_lanes(to + pieces[i].dst, pieces[i].write, load_vector(from + pieces[i].src));
      store_lanes(to + tail.dst, tail.write, vector_t<A>{});
    }
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
