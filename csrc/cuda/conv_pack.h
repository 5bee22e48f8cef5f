// Operands of implicit GEMMs in a layout that these cannot read: copies in a workspace, with neighbouring channels, and
// every group of channels filled up with zeros to whole vectors of 16 bytes.
#pragma once

#include <initializer_list>

#include "core/conv_problem.h"
#include "core/status.h"
#include "cuda/device/launch.h"
#include "cuda/device/pack.h"
#include "cuda/walk.h"

namespace convkit::cuda {

// What lies along N (images, or filters in their groups) and along C, and how far apart groups are in the copy.
struct PackPlan {
  int64_t row_groups, rows, row_pitch, channel_groups, channels, channel_pitch;

  int64_t elements(const TensorView& t) const {
    return row_groups * row_pitch * t.size[kD] * t.size[kH] * t.size[kW] * channel_groups * channel_pitch;
  }
};

// Channels or filters of a group, filled up to whole vectors of the type.
inline int64_t whole_vectors(int64_t channels, DType dtype) {
  const int64_t vector = pack_count(dtype);
  return ceil_div(channels, vector) * vector;
}

// x, or dy (`channels` is then K).
inline PackPlan pack_activations(const ConvProblem& p, int64_t channels, DType dtype) {
  return {1, p.n, p.n, p.groups, channels / p.groups, whole_vectors(channels / p.groups, dtype)};
}
// w; `sums_filters`: the reduction runs over filters (dgrad), so that these are filled up as those of dy are.
inline PackPlan pack_filters(const ConvProblem& p, bool sums_filters, DType dtype) {
  const int64_t filters = p.k / p.groups, channels = p.c / p.groups;
  return {p.groups, filters,  sums_filters ? whole_vectors(filters, dtype) : filters,
          1,        channels, whole_vectors(channels, dtype)};
}

// Whether `channels` of each group, along stride[kC], can be moved as whole vectors of 16 bytes.
inline bool vectors_fit(const TensorView& t, int64_t channels) {
  const int64_t vector = pack_count(t.dtype);
  return channels > 0 && channels % vector == 0 && packs_fit(t, vector, dtype_bytes(t.dtype));
}
inline bool needs_packing(const TensorView& t, const PackPlan& plan) {
  return plan.rows != plan.row_pitch || !vectors_fit(t, plan.channels);
}

// Whether 32 bits hold where the elements of an image or filter lie behind its first.
inline bool pack_reaches(const TensorView& t) {
  int64_t reach = 0;
  for (const Dim dim : {kC, kD, kH, kW}) reach += t.size[dim] > 1 ? (t.size[dim] - 1) * t.stride[dim] : 0;
  return reach <= 0x7fffffff;
}

// to[group of rows][row][position][group of channels][channel] = from, zeros where the plan fills up.
Status pack_channels(const TensorView& from, const PackPlan& plan, void* to);

// A tensor as implicit GEMMs read it: itself, or its copy.
class PackedOperand {
 public:
  PackedOperand(const TensorView& t, const PackPlan& plan)
      : memory_(needs_packing(t, plan) ? plan.elements(t) * dtype_bytes(t.dtype) : 0), view_(t) {
    status_ = memory_.status();
    if (!status_.ok() || !needs_packing(t, plan)) return;
    view_.data = memory_.as<void>();
    view_.size[kN] = plan.row_groups * plan.row_pitch;
    view_.size[kC] = plan.channel_groups * plan.channel_pitch;
    view_.stride[kC] = 1;
    view_.stride[kW] = view_.size[kC];
    for (const Dim dim : {kH, kD}) view_.stride[dim] = view_.stride[dim + 1] * view_.size[dim + 1];
    view_.stride[kN] = view_.stride[kD] * view_.size[kD];
    status_ = pack_channels(t, plan, view_.data);
  }
  Status status() const { return status_; }
  const TensorView& view() const { return view_; }

 private:
  Workspace memory_;
  TensorView view_;
  Status status_;
};

}  // namespace convkit::cuda
