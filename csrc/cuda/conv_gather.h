// fprop and dgrad as one sliding sum (core/conv_window.h), in the terms of a GPU kernel: a source, a result, taps.
#pragma once

#include "core/conv_window.h"
#include "core/epilogue.h"
#include "cuda/device/divide.h"
#include "cuda/device/launch.h"

namespace convkit::cuda {

struct Gather {
  TensorView source, result;
  Epilogue epilogue;
  const void* w;
  int64_t w_tap[3];                     // stride of w along its taps,
  int64_t w_group, w_result, w_source;  // from group to group, result channel to result channel, source channel to next
  int32_t result_channels, source_channels;  // of one group
  Axis axis[3];
  Divider phases_w, phases_h;
  int64_t phases;  // blockIdx.z counts them
};

// The taps of one phase along one dimension, and its result positions: 32 bits hold positions, the launcher saw to it.
struct Phase {
  int32_t number, length, step;
  int32_t count, tap, tap_step, src, src_step;
  int32_t source;

  CONVKIT_DEVICE void set(const Axis& wide, int32_t phase) {
    const auto narrow = [](int64_t v) { return static_cast<int32_t>(v); };
    const AxisOf<int32_t> axis{wide.adjoint,        narrow(wide.kernel),   narrow(wide.stride),
                               narrow(wide.pad),    narrow(wide.dilation), narrow(wide.source),
                               narrow(wide.result), narrow(wide.phases),   narrow(wide.step)};
    const TapsOf<int32_t> t = phase_taps(axis, phase);
    number = phase;
    length = phase_length(axis, phase);
    step = axis.step;
    count = t.count;
    tap = t.tap;
    tap_step = t.tap_step;
    src = t.src;
    src_step = t.src_step;
    source = axis.source;
  }
};

// The block's phase along d, h and w, in shared memory: one thread per dimension works it out for all.
CONVKIT_DEVICE void find_phases(const Gather& g, Phase* phase) {
  if (threadIdx.x < 3) {
    int32_t rest = static_cast<int32_t>(blockIdx.z);
    const int32_t w = g.phases_w.take(&rest), h = g.phases_h.take(&rest);
    phase[threadIdx.x].set(g.axis[threadIdx.x], threadIdx.x == 2 ? w : threadIdx.x == 1 ? h : rest);
  }
  __syncthreads();
}

// Positions and what a window reaches fit into 32 bits.
inline bool positions_fit(const ConvProblem& p) {
  constexpr int64_t kMost = 0x7fffffff;
  for (int i = 0; i < 3; ++i)
    if (p.in[i] + p.pad_before[i] + p.filter[i] * p.dilation[i] + p.stride[i] > kMost / 2 || p.out[i] > kMost / 2)
      return false;
  return volume(p.in) < kMost && volume(p.out) < kMost && p.c < kMost && p.k < kMost;
}

// `adjoint`: dgrad, whose source is dy and whose result is dx.
inline Gather make_gather(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w,
                          const Epilogue& e, const TensorView& result) {
  Gather g{};
  g.source = source;
  g.result = result;
  g.epilogue = e;
  g.w = w.data;
  g.phases = 1;
  for (int i = 0; i < 3; ++i) {
    g.w_tap[i] = w.stride[kD + i];
    g.axis[i] = make_axis(p, i, adjoint);
    g.phases *= g.axis[i].phases;
  }
  const int64_t group_c = p.c / p.groups, group_k = p.k / p.groups;
  g.w_group = group_k * w.stride[kN];
  g.w_result = adjoint ? w.stride[kC] : w.stride[kN];
  g.w_source = adjoint ? w.stride[kN] : w.stride[kC];
  g.result_channels = static_cast<int32_t>(adjoint ? group_c : group_k);
  g.source_channels = static_cast<int32_t>(adjoint ? group_k : group_c);
  g.phases_w = Divider(g.axis[2].phases);
  g.phases_h = Divider(g.axis[1].phases);
  return g;
}

// Result positions of an image in the longest phase, which is the first.
inline int64_t positions_of_phase(const Gather& g) {
  int64_t positions = 1;
  for (const Axis& axis : g.axis) positions *= phase_length(axis, 0);
  return positions;
}

}  // namespace convkit::cuda
