// The planar sliding kernels' common ground: the result in boxes, and the staged source of a box.
//
// Planar kernels put vectors along W. Whatever the tensors' strides and dtype, a box's source is copied into
// scratch first (cpu/conv_stage.h), so that the kernels read neighbours, unconverted and unchecked.
#pragma once

#include "core/conv_window.h"
#include "core/tensor_view.h"
#include "cpu/conv_stage.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// The result is cut into boxes of `block` positions per phase; a box's source is staged as
// planes x slices x rows x (step parts of `pitch` columns).
struct Plan {
  Axis axis[3];
  Reach reach[3];
  int64_t planes;   // source channels of a group: all are staged
  int64_t results;  // result channels of a group
  int64_t block[3], blocks[3];
  int64_t staged[3];  // slices, rows, columns
  int64_t lead;       // elements before a row, so that source column 0 is aligned: unaligned stores cost double
  int64_t pitch, row, slice, plane;
  int64_t units, units_per_task;
};

CONVKIT_INLINE int64_t phase_positions(const Axis& a) { return (a.result + a.phases - 1) / a.phases; }

CONVKIT_INLINE int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// Results per phase whose source spans at most `room` positions.
CONVKIT_INLINE int64_t fitting(const Axis& a, const Reach& r, int64_t room) {
  return clamp((room - (r.high - r.low + 1)) / a.step + 1, 1, phase_positions(a));
}

CONVKIT_INLINE void even_out(int64_t positions, int64_t* block, int64_t* blocks) {
  *blocks = (positions + *block - 1) / *block;
  *block = (positions + *blocks - 1) / *blocks;
}

CONVKIT_INLINE Plan make_plan(const ConvProblem& p, bool adjoint, int lanes, int64_t element_bytes) {
  constexpr int64_t kRows = 7, kPlaneBytes = 40 * 1024, kVolumeBytes = 512 * 1024, kMaxColumns = 2048;
  Plan plan{};
  plan.planes = (adjoint ? p.k : p.c) / p.groups;
  plan.results = (adjoint ? p.c : p.k) / p.groups;
  for (int i = 0; i < 3; ++i) {
    plan.axis[i] = make_axis(p, i, adjoint);
    plan.reach[i] = reach_of(plan.axis[i]);
  }
  const auto span = [&](int i, int64_t block) {
    return (block - 1) * plan.axis[i].step + plan.reach[i].high - plan.reach[i].low + 1;
  };
  plan.block[2] = clamp(phase_positions(plan.axis[2]), 1, kMaxColumns);
  even_out(phase_positions(plan.axis[2]), &plan.block[2], &plan.blocks[2]);
  plan.staged[2] = span(2, plan.block[2]);
  const int64_t before = plan.reach[2].low < 0 ? -plan.reach[2].low / plan.axis[2].step : 0;
  plan.lead = (lanes - before % lanes) % lanes;
  plan.pitch = (plan.reach[2].high - plan.reach[2].low) / plan.axis[2].step + plan.block[2] + 2 * lanes;
  plan.pitch = (plan.pitch + lanes - 1) / lanes * lanes;
  plan.row = plan.pitch * plan.axis[2].step;
  const bool deep = plan.axis[0].kernel > 1;
  const int64_t budget = (deep ? kVolumeBytes : kPlaneBytes) / element_bytes / plan.planes / plan.row;  // rows
  plan.block[1] = fitting(plan.axis[1], plan.reach[1], budget / span(0, 1));
  if (plan.block[1] < kRows) plan.block[1] = clamp(phase_positions(plan.axis[1]), 1, kRows);
  even_out(phase_positions(plan.axis[1]), &plan.block[1], &plan.blocks[1]);
  plan.staged[1] = span(1, plan.block[1]);
  plan.block[0] = fitting(plan.axis[0], plan.reach[0], budget / plan.staged[1]);
  even_out(phase_positions(plan.axis[0]), &plan.block[0], &plan.blocks[0]);
  plan.staged[0] = span(0, plan.block[0]);
  plan.slice = plan.staged[1] * plan.row;
  plan.plane = plan.staged[0] * plan.slice;
  plan.units = p.n * p.groups * plan.blocks[0] * plan.blocks[1] * plan.blocks[2];
  // Enough work to outweigh fetching a task: about 64k multiplications.
  const int64_t work =
      plan.block[0] * plan.block[1] * plan.block[2] * volume(p.filter) * plan.planes * plan.results + 1;
  plan.units_per_task = clamp(65536 / work, 1, plan.units / 16 + 1);
  return plan;
}

// One box of one group of one image.
struct Box {
  int64_t n, group, at[3];
};

CONVKIT_INLINE Box box_of(const Plan& plan, int64_t groups, int64_t unit) {
  Box box{};
  for (int dim = 2; dim >= 0; --dim) {
    box.at[dim] = unit % plan.blocks[dim];
    unit /= plan.blocks[dim];
  }
  box.group = unit % groups;
  box.n = unit / groups;
  return box;
}

// The box's positions [first, last) among those of a phase.
CONVKIT_INLINE int64_t first_position(const Plan& plan, const Box& box, int dim) {
  return box.at[dim] * plan.block[dim];
}
CONVKIT_INLINE int64_t last_position(const Plan& plan, const Box& box, int dim, int64_t phase) {
  const int64_t first = first_position(plan, box, dim);
  return clamp(phase_length(plan.axis[dim], phase), first, first + plan.block[dim]);
}

template <typename T>
CONVKIT_INLINE int64_t staged_elements(const Plan& plan) {
  return plan.lead + plan.planes * plan.plane + 2 * lanes_of<T>();
}

template <typename T>
CONVKIT_INLINE void stage_box(const Plan& plan, const Box& box, const TensorView& source, accumulate_t<T>* to) {
  int64_t origin[3];
  to += plan.lead;
  for (int i = 0; i < 3; ++i) origin[i] = first_position(plan, box, i) * plan.axis[i].step + plan.reach[i].low;
  for (int64_t i = 0; i < plan.planes; ++i)
    for (int64_t d = origin[0]; d < origin[0] + plan.staged[0]; ++d)
      for (int64_t h = origin[1]; h < origin[1] + plan.staged[1]; ++h, to += plan.row) {
        if (d >= 0 && d < plan.axis[0].source && h >= 0 && h < plan.axis[1].source)
          stage_row<T>(data<T>(source) + offset(source, box.n, box.group * plan.planes + i, d, h, 0), source.stride[kW],
                       plan.axis[2].source, origin[2], plan.staged[2], to, plan.axis[2].step, plan.pitch);
        else
          zero_row(to, plan.row);
      }
}

// Where each tap column of each phase starts in a staged row.
CONVKIT_INLINE void tap_columns(const Plan& plan, int64_t* at) {
  for (int64_t phase = 0; phase < plan.axis[2].phases; ++phase) {
    const Taps t = phase_taps(plan.axis[2], phase);
    for (int64_t s = 0; s < t.count; ++s) {
      const int64_t u = t.src + s * t.src_step - plan.reach[2].low;
      *at++ = plan.lead + u % plan.axis[2].step * plan.pitch + u / plan.axis[2].step;
    }
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
