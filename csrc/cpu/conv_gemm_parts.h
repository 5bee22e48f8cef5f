// A gather in parts, which read the same taps each.
//
// Where padding is wide (dilated filters, and the gradient of a filter that covers its whole input), many taps of the
// results near the border lie outside the input. Along each axis the result is cut where a tap enters or leaves the
// input; a part is a gather of its own, over the taps that it has, as a stride phase of dgrad is. Nothing else knows of
// parts.
#pragma once

#include "cpu/conv_gemm_gather.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Results [begin, end) of an axis, which read taps [tap, tap + taps) and no others.
struct AxisPart {
  int64_t begin, end, tap, taps;
};

constexpr int kMostAxisParts = 9;  // more would be small

struct Parts {
  AxisPart part[kMaxSpatial][kMostAxisParts];
  int64_t count[kMaxSpatial];
};

// The cuts of one axis; false if they are too many.
CONVKIT_INLINE bool cut_axis(const Gather& g, int axis, AxisPart* part, int64_t* count) {
  const TapAxis& tap = g.tap[axis];
  const int64_t length = g.out[axis], stride = g.stride[axis];
  *count = 0;
  for (int64_t at = 0; at < length;) {
    if (*count == kMostAxisParts) return false;
    AxisPart p{at, length, 0, 0};
    for (int64_t j = 0; j < tap.count; ++j) {
      // Tap j is inside for results [enters, leaves).
      const int64_t shift = tap.origin + j * tap.move;
      const int64_t enters = shift < 0 ? ceil_div(-shift, stride) : 0;
      const int64_t leaves = shift < g.in[axis] ? ceil_div(g.in[axis] - shift, stride) : 0;
      if (enters > at && enters < leaves) p.end = minimum(p.end, enters);
      if (leaves <= at || enters > at || enters >= leaves) continue;
      p.end = minimum(p.end, leaves);
      if (p.taps++ == 0) p.tap = j;
    }
    part[(*count)++] = p;
    at = p.end;
  }
  return true;
}

// About what the products of one part cost, per channel: rows are handled in pieces, and a product of few pixels
// is bound by reading the filter.
CONVKIT_INLINE int64_t part_cost(int64_t n, const AxisPart& d, const AxisPart& h, const AxisPart& w) {
  const int64_t pixels = n * (d.end - d.begin) * (h.end - h.begin) * round_up(w.end - w.begin, 4);
  return d.taps * h.taps * w.taps * (pixels > 8 ? pixels : 8);
}

CONVKIT_INLINE int64_t cost(const Gather& g, const Parts& parts) {
  int64_t sum = 0;
  for (int64_t d = 0; d < parts.count[0]; ++d)
    for (int64_t h = 0; h < parts.count[1]; ++h)
      for (int64_t w = 0; w < parts.count[2]; ++w)
        sum += part_cost(g.n, parts.part[0][d], parts.part[1][h], parts.part[2][w]);
  return sum;
}

// Each axis is cut if that alone saves a tenth of the cost; all of it counts only if it saves a fifth.
CONVKIT_INLINE Parts cut_gather(const Gather& g) {
  Parts whole;
  for (int i = 0; i < kMaxSpatial; ++i) {
    whole.part[i][0] = {0, g.out[i], 0, g.tap[i].count};
    whole.count[i] = 1;
  }
  const int64_t uncut = cost(g, whole);
  Parts cut = whole;
  for (int i = 0; i < kMaxSpatial; ++i) {
    Parts one = whole;
    if (!cut_axis(g, i, one.part[i], &one.count[i]) || 10 * cost(g, one) > 9 * uncut) continue;
    for (int64_t j = 0; j < one.count[i]; ++j) cut.part[i][j] = one.part[i][j];
    cut.count[i] = one.count[i];
  }
  return 10 * cost(g, cut) > 8 * uncut ? whole : cut;
}

CONVKIT_INLINE int64_t part_count(const Parts& p) { return p.count[0] * p.count[1] * p.count[2]; }

// Part `number` of a gather; *at is its first result.
CONVKIT_INLINE Gather part_of(const Gather& whole, const Parts& parts, int64_t number, Spatial* at) {
  Gather g = whole;
  g.taps = 1;
  for (int i = kMaxSpatial - 1; i >= 0; --i) {
    const AxisPart& p = parts.part[i][number % parts.count[i]];
    number /= parts.count[i];
    (*at)[i] = p.begin;
    g.out[i] = p.end - p.begin;
    TapAxis& tap = g.tap[i];
    tap.count = p.taps;
    tap.first += p.tap * tap.step;
    tap.origin += p.begin * g.stride[i] + p.tap * tap.move;
    g.taps *= p.taps;
  }
  return g;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
