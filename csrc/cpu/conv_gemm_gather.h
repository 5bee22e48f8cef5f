// fprop and dgrad as one problem: every result is a sum over taps of a strided gather.
//
//   out[n, m, o] = sum over taps t and channels c of W[m, c, t] * in[n, c, o * stride + origin + t * move]
//
// fprop is one gather. dgrad splits into prod(stride) phases: the results at phase + j * stride need only the
// taps r for which (phase + pad - r * dilation) is divisible by stride, at dy positions j + (that quotient); so
// each phase is a gather of stride 1 and no zero is ever inserted. Taps of both form arithmetic progressions.
#pragma once

#include "core/conv_problem.h"
#include "core/tensor_view.h"

namespace convkit {
inline namespace CONVKIT_ISA {

CONVKIT_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
CONVKIT_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
CONVKIT_INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }

// Tap j of an axis is filter element first + j * step; result o reads position o * stride + origin + j * move.
struct TapAxis {
  int64_t count, first, step, origin, move;
};

struct Gather {
  int64_t n, groups;
  int64_t rows, depth;  // result channels and summed channels of a group
  TapAxis tap[kMaxSpatial];
  Spatial in, out, stride;
  int64_t taps;  // all of them
};

// One tap as element offsets: into the input, into the filter, and as a shift of the position in each axis.
struct Tap {
  int64_t shift[kMaxSpatial], filter[kMaxSpatial];
};

CONVKIT_INLINE Tap tap_at(const Gather& g, int64_t t) {
  const int64_t h = g.tap[1].count, w = g.tap[2].count;
  const int64_t at[kMaxSpatial] = {t / w / h, t / w % h, t % w};
  Tap tap;
  for (int i = 0; i < kMaxSpatial; ++i) {
    tap.shift[i] = g.tap[i].origin + at[i] * g.tap[i].move;
    tap.filter[i] = g.tap[i].first + at[i] * g.tap[i].step;
  }
  return tap;
}

CONVKIT_INLINE Gather fprop_gather(const ConvProblem& p) {
  Gather g{p.n, p.groups, p.k / p.groups, p.c / p.groups, {}, p.in, p.out, p.stride, volume(p.filter)};
  for (int i = 0; i < kMaxSpatial; ++i) g.tap[i] = {p.filter[i], 0, 1, -p.pad_before[i], p.dilation[i]};
  return g;
}

// Phases that hold results; phase numbers run over their product.
CONVKIT_INLINE Spatial dgrad_phases(const ConvProblem& p) {
  Spatial s;
  for (int i = 0; i < kMaxSpatial; ++i) s[i] = p.stride[i] < p.in[i] ? p.stride[i] : p.in[i];
  return s;
}

CONVKIT_INLINE Gather dgrad_gather(const ConvProblem& p, const Spatial& phase) {
  Gather g{p.n, p.groups, p.c / p.groups, p.k / p.groups, {}, p.out, {}, {{1, 1, 1}}, 1};
  for (int i = 0; i < kMaxSpatial; ++i) {
    const int64_t s = p.stride[i], d = p.dilation[i], shifted = phase[i] + p.pad_before[i];
    int64_t a = s, b = d;  // a becomes gcd(s, d)
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    TapAxis& tap = g.tap[i];
    tap.step = s / a;
    tap.move = -(d / a);
    while (tap.first < tap.step && tap.first < p.filter[i] && (shifted - tap.first * d) % s != 0) ++tap.first;
    if (tap.first < tap.step && tap.first < p.filter[i]) {
      tap.count = (p.filter[i] - 1 - tap.first) / tap.step + 1;
      tap.origin = (shifted - tap.first * d) / s;
    }
    g.out[i] = (p.in[i] - phase[i] + s - 1) / s;
    g.taps *= tap.count;
  }
  return g;
}

// A view of the results of one phase.
CONVKIT_INLINE TensorView phase_view(const TensorView& t, const Spatial& phase, const Spatial& stride,
                                     const Spatial& size) {
  TensorView v = t;
  if (v.data == nullptr) return v;
  v.data = static_cast<char*>(t.data) + offset(t, 0, 0, phase[0], phase[1], phase[2]) * dtype_bytes(t.dtype);
  for (int i = 0; i < kMaxSpatial; ++i) {
    v.size[kD + i] = size[i];
    v.stride[kD + i] *= stride[i];
  }
  return v;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
