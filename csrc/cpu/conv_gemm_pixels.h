// Pixels (n, o, p, q), flattened, as row segments, and their packing for gemm_kernel.h.
//
// A block of pixels is cut where a row of the result ends. For one tap, a segment reads one strided run of an
// input row, of which an interval lies inside the input; the rest is padding. Which interval is decided once
// per (segment, tap) and used for every channel.
#pragma once

#include "cpu/conv_gemm_gather.h"
#include "cpu/gemm_kernel.h"

namespace convkit {
inline namespace CONVKIT_ISA {

constexpr int64_t kMaxPixels = 512;  // of a block

struct Segment {
  int64_t in, out, residual;   // element offsets of its first pixel at channel 0, and tap shift 0
  int64_t start[kMaxSpatial];  // input position of its first pixel at tap shift 0
  int64_t q;                   // its first pixel within the row of the result
  int64_t at, length;          // pixels [at, at + length) of the block
};

// Part of a segment within one vector of pixels: lanes of `write` of the vector at dst, of which those of
// `load` come from src + lane * step and the others are zero.
struct Piece {
  int64_t src, dst;
  uint32_t load, write;
};

struct PixelBlock {
  int64_t count, segments;
  Segment segment[kMaxPixels];
};

CONVKIT_INLINE void make_pixels(PixelBlock* block, const Gather& g, const TensorView& in, const TensorView& out,
                                const TensorView& residual, int64_t begin, int64_t count) {
  block->count = count;
  block->segments = 0;
  int64_t q = begin % g.out[2], rest = begin / g.out[2];
  int64_t p = rest % g.out[1];
  rest /= g.out[1];
  int64_t o = rest % g.out[0], n = rest / g.out[0];
  for (int64_t at = 0; at < count;) {
    Segment& s = block->segment[block->segments++];
    s.at = at;
    s.q = q;
    s.length = g.out[2] - q < count - at ? g.out[2] - q : count - at;
    s.start[0] = o * g.stride[0];
    s.start[1] = p * g.stride[1];
    s.start[2] = q * g.stride[2];
    s.in = offset(in, n, 0, s.start[0], s.start[1], s.start[2]);
    s.out = offset(out, n, 0, o, p, q);
    s.residual = offset(residual, n, 0, o, p, q);
    at += s.length;
    q = 0;
    if (++p == g.out[1]) {
      p = 0;
      if (++o == g.out[0]) {
        o = 0;
        ++n;
      }
    }
  }
}

// A tap with what it reads: its offset in the input, and the pixels [begin, end) of a row of the result for
// which it reads inside a row of the input.
struct Reach {
  Tap tap;
  int64_t offset, begin, end;
};
CONVKIT_INLINE Reach reach_of(const Gather& g, const TensorView& in, int64_t t) {
  Reach r;
  r.tap = tap_at(g, t);
  r.offset = r.tap.shift[0] * in.stride[kD] + r.tap.shift[1] * in.stride[kH] + r.tap.shift[2] * in.stride[kW];
  const int64_t shift = r.tap.shift[2], left = g.in[2] - shift;
  r.begin = shift >= 0 ? 0 : ceil_div(-shift, g.stride[2]);
  r.end = left <= 0 ? 0 : ceil_div(left, g.stride[2]);
  return r;
}

// Pixels [begin, end) of the segment, relative to its first, that the tap reads from inside the input.
struct Interval {
  int64_t begin, end;
};
CONVKIT_INLINE Interval inside(const Gather& g, const Segment& s, const Reach& r) {
  for (int i = 0; i < 2; ++i) {
    const int64_t at = s.start[i] + r.tap.shift[i];
    if (at < 0 || at >= g.in[i]) return {0, 0};
  }
  const int64_t begin = r.begin > s.q ? r.begin - s.q : 0, end = minimum(r.end - s.q, s.length);
  return end > begin ? Interval{begin, end} : Interval{0, 0};
}

// Cuts [at, at + length) at multiples of the vector length; f(vector's first index, begin lane, end lane).
template <typename A, typename F>
CONVKIT_INLINE void for_vectors(int64_t at, int64_t length, const F& f) {
  const int64_t end = at + length;
  for (int64_t v = at / kLanes<A> * kLanes<A>; v < end; v += kLanes<A>)
    f(v, at > v ? at - v : 0, end < v + kLanes<A> ? end - v : kLanes<A>);
}

constexpr int64_t kMaxPieces = kMaxPixels + 1;  // each holds a pixel, but the one that fills the tail

// Pixel j goes to element j % kPanel of panel j / kPanel; panels are `panel_pitch` elements apart.
template <typename A>
CONVKIT_INLINE int64_t panel_place(int64_t pixel, int64_t panel_pitch) {
  return pixel / kPanel<A> * panel_pitch + pixel % kPanel<A>;
}

// Zeros behind the last pixel, up to the next full vector; writes nothing if there is none.
template <typename A>
CONVKIT_INLINE Piece tail_piece(const PixelBlock& block, int64_t panel_pitch) {
  const int64_t tail = block.count % kLanes<A>;
  if (tail == 0) return {0, 0, 0, 0};
  return {0, panel_place<A>(block.count - tail, panel_pitch), 0, lane_mask(tail, kLanes<A>)};
}

// The pieces of one tap.
template <typename A>
CONVKIT_INLINE int64_t make_pieces(Piece* pieces, const Gather& g, const TensorView& in, const PixelBlock& block,
                                   int64_t tap, int64_t panel_pitch) {
  const int64_t step = g.stride[2] * in.stride[kW];
  const Reach reach = reach_of(g, in, tap);
  Piece* piece = pieces;
  for (int64_t i = 0; i < block.segments; ++i) {
    const Segment& s = block.segment[i];
    const Interval valid = inside(g, s, reach);
    const int64_t low = s.at + valid.begin, high = s.at + valid.end;
    for_vectors<A>(s.at, s.length, [&](int64_t v, int64_t begin, int64_t end) {
      int64_t first = low - v > begin ? low - v : begin, last = high - v < end ? high - v : end;
      if (last <= first) first = last = begin;
      *piece++ = {s.in + reach.offset + (v - s.at) * step, panel_place<A>(v, panel_pitch), lane_mask(first, last),
                  lane_mask(begin, end)};
    });
  }
  const Piece tail = tail_piece<A>(block, panel_pitch);
  if (tail.write != 0) *piece++ = tail;
  return piece - pieces;
}

// Writes the pieces of one channel. `in` points to the channel, `dst` to its row. The same pieces of the channel that
// is written fourth from here are asked for: a block's part of a channel is a page or less, and no hardware foresees
// the next one.
template <typename T>
CONVKIT_INLINE void copy_pieces(accumulate_t<T>* dst, const T* in, const Piece* pieces, int64_t count, int64_t step,
                                int64_t channel_stride) {
  const int64_t ahead = 4 * channel_stride;
  // One loop per step, so that the choice is not inside.
  if (step == 1) {
    for (int64_t i = 0; i < count; ++i) {
      __builtin_prefetch(in + pieces[i].src + ahead);
      copy_lanes(dst + pieces[i].dst, in + pieces[i].src, 1, pieces[i].load, pieces[i].write);
    }
  } else if (step == 2) {
    for (int64_t i = 0; i < count; ++i)
      copy_lanes(dst + pieces[i].dst, in + pieces[i].src, 2, pieces[i].load, pieces[i].write);
  } else {
    for (int64_t i = 0; i < count; ++i)
      copy_lanes(dst + pieces[i].dst, in + pieces[i].src, step, pieces[i].load, pieces[i].write);
  }
}

// The part of a sum over (channel, tap) that one product covers: kDepth or fewer terms.
struct DepthBlock {
  int64_t channel, channels, tap, taps;
  CONVKIT_INLINE int64_t size() const { return channels * taps; }
};

// Whether depth blocks hold whole rows of taps: of few channels, which are short runs tap by tap.
template <typename A>
CONVKIT_INLINE bool takes_rows_of_taps(const Gather& g) {
  return g.taps > 0 && g.depth > 0 && g.depth < kLanes<A> && g.tap[2].count * g.depth <= kDepth;
}

// A copy of a fixed number of neighbours, zeros where there are none.
template <typename T>
struct RunCopy {
  using A = accumulate_t<T>;
  int64_t count, full;
  uint32_t tail;
  CONVKIT_INLINE explicit RunCopy(int64_t n)
      : count(n), full(n / kLanes<A> * kLanes<A>), tail(lane_mask(0, n % kLanes<A>)) {}
  CONVKIT_INLINE void operator()(A* dst, const T* src) const {
#if CONVKIT_AVX512
    for (int64_t i = 0; i < full; i += kLanes<A>) store_vector(dst + i, load_lanes(src + i, lane_mask(0, kLanes<A>)));
    if (tail != 0) store_lanes(dst + full, tail, load_lanes(src + full, tail));
#else
    for (int64_t i = 0; i < count; ++i) dst[i] = load(src + i);
#endif
  }
  CONVKIT_INLINE void zero(A* dst) const {
    for (int64_t i = 0; i < count; ++i) dst[i] = A(0);
  }
};

// dst[pixel * kDepthPitch + (tap * channels + channel)] = in of that pixel, tap and channel: rows of A for
// data whose channels are neighbours. `in` points to the group's first channel.
template <typename T>
CONVKIT_INLINE void pack_pixel_rows(accumulate_t<T>* dst, const Gather& g, const TensorView& view, const T* in,
                                    const PixelBlock& block, const DepthBlock& d) {
  const int64_t channel_stride = view.stride[kC], step = g.stride[2] * view.stride[kW];
  in += d.channel * channel_stride;
  // Neighbouring taps of a row that are neighbours in memory, channels included, are copied as one run.
  const int64_t row_taps = g.tap[2].count;
  const bool merged = row_taps > 1 && channel_stride == 1 && d.tap % row_taps == 0 && d.taps % row_taps == 0 &&
                      g.tap[2].move == 1 && view.stride[kW] == d.channels && g.depth == d.channels;
  const int64_t run_taps = merged ? row_taps : 1;
  const RunCopy<T> copy(run_taps * d.channels);
  for (int64_t t = 0; t < d.taps; t += run_taps) {
    const Reach first = reach_of(g, view, d.tap + t);
    const Reach last = reach_of(g, view, d.tap + t + run_taps - 1);
    for (int64_t i = 0; i < block.segments; ++i) {
      const Segment& s = block.segment[i];
      accumulate_t<T>* to = dst + s.at * kDepthPitch + t * d.channels;
      const T* from = in + s.in + first.offset;
      // Pixels for which every tap of the run is inside: from the first tap's begin to the last tap's end.
      const Interval low = inside(g, s, first), high = inside(g, s, last);
      const Interval valid = low.end > 0 && high.end > 0 ? Interval{low.begin, high.end} : Interval{0, 0};
      const int64_t h = s.start[1] + first.tap.shift[1], depth = s.start[0] + first.tap.shift[0];
      const bool row_inside = depth >= 0 && depth < g.in[0] && h >= 0 && h < g.in[1];
      const auto edge = [&](int64_t j) {
        accumulate_t<T>* at = to + j * kDepthPitch;
        copy.zero(at);
        if (!row_inside) return;
        const int64_t w = s.start[2] + first.tap.shift[2] + j * g.stride[2];
        const int64_t begin = w < 0 ? minimum(-w, run_taps) : 0;
        const int64_t end = minimum(g.in[2] - w, run_taps);
        for (int64_t c = begin * d.channels; c < end * d.channels; ++c)
          at[c] = load(from + j * step + c * channel_stride);
      };
      int64_t j = 0;
      for (; j < valid.begin && j < s.length; ++j) edge(j);
      if (channel_stride == 1) {
        for (; j < valid.end; ++j) copy(to + j * kDepthPitch, from + j * step);
      } else {
        for (; j < valid.end; ++j) copy_run(to + j * kDepthPitch, from + j * step, channel_stride, d.channels);
      }
      for (; j < s.length; ++j) edge(j);
    }
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
