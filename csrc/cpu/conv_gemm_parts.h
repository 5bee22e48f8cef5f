// A gather in parts, which read the same taps each.
//
// Where padding is wide (dilated filters: up to nine tenths of a map), many taps of the results near the border lie
// outside the input. Along each axis the result is cut where a tap enters or leaves the input; a part is a gather of
// its own, over the taps that it has, as a stride phase of dgrad is. Nothing else knows of parts.
#pragma once

#include "cpu/conv_gemm_gather.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Results [begin, end) of an axis, which read taps [tap, tap + taps) and no others.
struct AxisPart {
  int64_t begin, end, tap, taps;
};

constexpr int kMostAxisParts = 5;  // three taps at most; more would be small

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

// An axis is cut if that saves a tenth of its products and leaves parts longer than a few results; all of it counts
// only if a fifth is saved.
CONVKIT_INLINE Parts cut_gather(const Gather& g) {
  Parts cut, whole;
  double left = 1;
  for (int i = 0; i < kMaxSpatial; ++i) {
    whole.part[i][0] = {0, g.out[i], 0, g.tap[i].count};
    whole.count[i] = 1;
    int64_t products = 0;
    const bool few = cut_axis(g, i, cut.part[i], &cut.count[i]);
    for (int64_t j = 0; few && j < cut.count[i]; ++j)
      products += (cut.part[i][j].end - cut.part[i][j].begin) * cut.part[i][j].taps;
    const double share = static_cast<double>(products) / static_cast<double>(g.out[i] * g.tap[i].count);
    if (few && share < 0.9 && g.out[i] >= 6 * cut.count[i]) {
      left *= share;
      continue;
    }
    cut.part[i][0] = whole.part[i][0];
    cut.count[i] = 1;
  }
  return left < 0.8 ? cut : whole;
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
