// fprop and dgrad along one spatial dimension, as the same sliding sum in gathered form.
//
// Result position i = j * phases + phase is the sum over the taps of that phase of
//   source[j * step + src + a * src_step] * filter[tap + a * tap_step],  a = 0 .. count - 1,
// with ascending source positions. fprop has one phase and steps by the stride; dgrad has as many phases as
// the stride and steps by one: no product with an inserted zero is ever formed.
#pragma once

#include "core/conv_problem.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// I: GPUs divide 32 bits several times as fast as 64.
template <typename I>
struct TapsOf {
  I count, tap, tap_step, src, src_step;
};
using Taps = TapsOf<int64_t>;

template <typename I>
struct AxisOf {
  using Int = I;
  bool adjoint;
  I kernel, stride, pad, dilation;
  I source, result;  // lengths
  I phases, step;
};
using Axis = AxisOf<int64_t>;

// Source positions relative to j * step that some tap of some phase reads.
struct Reach {
  int64_t low, high;
};

CONVKIT_INLINE Axis make_axis(const ConvProblem& p, int dim, bool adjoint) {
  return Axis{adjoint,
              p.filter[dim],
              p.stride[dim],
              p.pad_before[dim],
              p.dilation[dim],
              adjoint ? p.out[dim] : p.in[dim],
              adjoint ? p.in[dim] : p.out[dim],
              adjoint ? p.stride[dim] : 1,
              adjoint ? 1 : p.stride[dim]};
}

// Result positions of a phase.
template <typename I>
CONVKIT_INLINE I phase_length(const AxisOf<I>& a, typename AxisOf<I>::Int phase) {
  return a.result > phase ? (a.result - phase + a.phases - 1) / a.phases : 0;
}

template <typename I>
CONVKIT_INLINE TapsOf<I> phase_taps(const AxisOf<I>& a, typename AxisOf<I>::Int phase) {
  if (!a.adjoint) return TapsOf<I>{a.kernel, 0, 1, -a.pad, a.dilation};
  I first = 0;  // the smallest tap t with (phase + pad - t * dilation) divisible by the stride
  while (first < a.kernel && first < a.stride && (phase + a.pad - first * a.dilation) % a.stride != 0) ++first;
  if (first == a.kernel || first == a.stride) return TapsOf<I>{0, 0, 1, 0, 1};
  I gcd = a.stride, rest = a.dilation;
  while (rest != 0) {
    const I next = gcd % rest;
    gcd = rest;
    rest = next;
  }
  const I every = a.stride / gcd, count = (a.kernel - first + every - 1) / every;
  const I last = first + (count - 1) * every;
  return TapsOf<I>{count, last, -every, (phase + a.pad - last * a.dilation) / a.stride, a.dilation / gcd};
}

// Taps of the filter before phase (pd, ph), where filters are packed phase by phase.
CONVKIT_INLINE int64_t taps_before(const Axis (&axis)[3], int64_t pd, int64_t ph) {
  int64_t rows = 0;
  for (int64_t i = 0; i < pd; ++i) rows += phase_taps(axis[0], i).count * axis[1].kernel;
  for (int64_t i = 0; i < ph; ++i) rows += phase_taps(axis[0], pd).count * phase_taps(axis[1], i).count;
  return rows * axis[2].kernel;
}

CONVKIT_INLINE Reach reach_of(const Axis& a) {
  Reach r{INT64_MAX, INT64_MIN};
  for (int64_t phase = 0; phase < a.phases && phase < a.result; ++phase) {
    const Taps t = phase_taps(a, phase);
    if (t.count == 0) continue;
    const int64_t high = t.src + (t.count - 1) * t.src_step;
    if (t.src < r.low) r.low = t.src;
    if (high > r.high) r.high = high;
  }
  return r.low > r.high ? Reach{0, 0} : r;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
