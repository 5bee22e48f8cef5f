// The adjoint of the pooling template along rows, in gather form: every element of dx is written once.
//
// Computes  dx[i] = sum over the windows o that read i (through tap t) of dy[o] where offset[o] == t  (select)
//           dx[i] = sum over the windows o that read i of dy[o] / divisor(o)                          (average)
// Layout    any; rows of unit stride are read and written as vectors
// Mapping   a unit is a group of planes x a band of input rows x a tile of columns, as in pool_rows.h.
// Memory    rows of dy (and offsets) are staged once into a ring, zero (and -1) where there is no window. An input
//           row is made phase by phase: in phase f of stride s lie the elements that taps t = f, f + s, ... read, so
//           each is a sum of shifted rows; the phases are then interleaved into dx. Windows are added in row major
//           order, as a scatter would.
//           Adaptive windows and large strides: a row of dy is spread over the positions that read it when it is
//           staged, once for each of the windows that can read one position. There is one phase, and no shift.
#pragma once

#include "cpu/pool_staging.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

struct GatherPlan {
  int64_t planes, group, groups;  // planes side by side, and how many such groups
  int64_t columns, tiles;         // positions (elements of one phase) per plane and tile
  int64_t rows, band, bands;      // input rows (d, h), rows per band
  int64_t reach;                  // by how many positions the last tap is shifted
  int64_t slot, width, pitch;     // positions per plane, per phase, per staged row
  bool spread;                    // whether rows are spread when they are staged
  int64_t readers;                // then: windows that can read one position
  int64_t ring_d, ring_h;         // windows that can read one input row
  CONVKIT_INLINE int64_t units() const { return groups * tiles * bands; }
};

// What follows from the columns: how many groups of planes, and which rows.
CONVKIT_INLINE GatherPlan finish_plan(const PoolProblem& p, GatherPlan r) {
  r.groups = ceil_div(r.planes, r.group);
  r.ring_d = most_covering(p, 0);
  r.ring_h = most_covering(p, 1);
  r.rows = p.in[0] * p.in[1];
  const int64_t bands = band_count(r.groups * r.tiles, r.rows, r.group * r.columns * (r.spread ? 1 : p.stride[2]));
  r.band = ceil_div(r.rows, bands);
  r.bands = ceil_div(r.rows, r.band);
  return r;
}

CONVKIT_INLINE GatherPlan plan_gather(const PoolProblem& p, int64_t lanes) {
  constexpr int64_t kColumns = 1024;
  const int64_t s = p.stride[2], positions = ceil_div(p.in[2] + p.pad_before[2], s);
  GatherPlan r{};
  r.planes = p.n * p.c;
  r.spread = p.adaptive || s > kShuffledStride;
  if (r.spread) {
    r.columns = r.slot = p.in[2];
    r.tiles = 1;
    r.group = planes_abreast(r.planes, r.slot, lanes);
    r.width = round_up(r.group * r.slot, lanes);
    r.readers = most_covering(p, 2);
    r.pitch = r.readers * r.width;
    return finish_plan(p, r);
  }
  r.columns = lesser(positions, kColumns);
  r.tiles = ceil_div(positions, r.columns);
  r.reach = (p.kernel[2] - 1) * p.dilation[2] / s;
  r.slot = r.reach + r.columns;
  r.group = r.tiles == 1 ? planes_abreast(r.planes, r.slot, lanes) : 1;
  r.width = round_up(r.group == 1 ? r.columns : r.group * r.slot, lanes);
  r.pitch = round_up(r.width + r.reach, lanes);
  return finish_plan(p, r);
}

template <typename Policy, typename T>
struct RowGather {
  static constexpr bool kSelect = Policy::kSelect;
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &dy, &offsets, &dx;
  const GatherPlan& plan;
  Policy policy;

  A* ring_values = nullptr;       // ring x pitch
  I* ring_taps = nullptr;         // ring x pitch, select only
  int64_t* ring_row = nullptr;    // which output row (o, q) a ring row holds
  int64_t* tap_begin = nullptr;   // taps of phase f: entries [tap_begin[f], tap_begin[f + 1]) of the next two
  int64_t* tap_number = nullptr;  // decreasing: the windows they come from then increase
  int64_t* tap_shift = nullptr;
  A* row_values = nullptr;  // spread: the row of dy (and offsets) that is being staged, and a window of nothing
  I* row_taps = nullptr;
  I* reads = nullptr;      // spread, readers x width: which of these windows read a position
  I* read_taps = nullptr;  // and through which tap
  A* divisors = nullptr;   // per window of the tile: what w contributes to the divisor
  A* phases = nullptr;     // stride x width
  A* line = nullptr;       // a row of dx, and of what lies beside it; only with weights
  A* beside = nullptr;
  int64_t* row_at = nullptr;   // where the staged rows that read the current input row lie in the ring
  int64_t* row_tap = nullptr;  // tap number through which they read it, before w is added
  int64_t* term_at = nullptr;  // the same for each tap of the current phase
  int64_t* term_tap = nullptr;
  int64_t active = 0, first_window = 0, windows = 0, staged_at = 0;  // of this tile

  void carve(Carver& c, const GatherPlan& r) {
    const int64_t ring = r.ring_d * r.ring_h;
    c.take(&ring_values, ring * r.pitch);
    if constexpr (kSelect) c.take(&ring_taps, ring * r.pitch);
    c.take(&ring_row, ring);
    c.take(&tap_begin, p.stride[2] + 1);
    c.take(&tap_number, p.kernel[2]);
    c.take(&tap_shift, p.kernel[2]);
    if (r.spread) {
      c.take(&row_values, r.group * p.out[2] + kLanes);
      if constexpr (kSelect) c.take(&row_taps, r.group * p.out[2] + kLanes);
      c.take(&reads, r.pitch);
      if constexpr (kSelect) c.take(&read_taps, r.pitch);
    }
    if constexpr (!kSelect) c.take(&divisors, (r.spread ? p.out[2] : r.pitch) + kLanes);
    c.take(&phases, (r.spread ? 1 : p.stride[2]) * r.width + kLanes);
    if constexpr (Policy::kWeighs) {
      c.take(&line, r.columns * p.stride[2] + kLanes);
      c.take(&beside, greater(r.columns * p.stride[2], r.pitch) + kLanes);
    }
    c.take(&row_at, ring);
    c.take(&row_tap, ring);
    c.take(&term_at, ring * greater(p.kernel[2], r.readers));
    c.take(&term_tap, ring * greater(p.kernel[2], r.readers));
  }

  CONVKIT_INLINE int64_t planes_in(int64_t group) const { return lesser(plan.group, plan.planes - group * plan.group); }

  // A position with fewer readers than others reads the window of nothing.
  void prepare_readers() {
    const int64_t nothing = plan.group * p.out[2];
    row_values[nothing] = A{0};
    if constexpr (kSelect) row_taps[nothing] = -1;
    for (int64_t i = 0; i < plan.pitch; ++i) {
      reads[i] = static_cast<I>(nothing);
      if constexpr (kSelect) read_taps[i] = 0;
    }
    for (int64_t w = 0; w < plan.slot; ++w)
      for (int64_t g = 0; g < plan.group; ++g) {
        int64_t to = g * plan.slot + w;
        for_readers(p, 2, w, [&](int64_t q, int64_t t) {
          reads[to] = static_cast<I>(g * p.out[2] + q);
          if constexpr (kSelect) read_taps[to] = static_cast<I>(t);
          to += plan.width;
        });
      }
  }

  // Sorts the taps by phase: counts, then fills each phase from its end.
  void prepare_taps() {
    if (plan.spread) return prepare_readers();
    const int64_t s = p.stride[2];
    for (int64_t f = 0; f <= s; ++f) tap_begin[f] = 0;
    for (int64_t t = 0; t < p.kernel[2]; ++t) ++tap_begin[t * p.dilation[2] % s];
    for (int64_t f = 0, end = 0; f <= s; ++f) tap_begin[f] = end += tap_begin[f];
    for (int64_t t = 0; t < p.kernel[2]; ++t) {
      const int64_t to = --tap_begin[t * p.dilation[2] % s];
      tap_number[to] = t;
      tap_shift[to] = t * p.dilation[2] / s;
    }
  }

  void prepare_tile(int64_t tile) {
    if (plan.spread) return prepare_spread();
    const int64_t j0 = tile * plan.columns, first = j0 - plan.reach;
    const int64_t columns = lesser(plan.columns, ceil_div(p.in[2] + p.pad_before[2], p.stride[2]) - j0);
    active = plan.group == 1 ? round_up(columns, kLanes) : plan.width;
    first_window = greater(0, first);
    windows = greater(0, lesser(p.out[2], j0 + columns) - first_window);
    staged_at = first_window - first;
    const int64_t ring = plan.ring_d * plan.ring_h;
    for (int64_t i = 0; i < ring; ++i) ring_row[i] = -1;
    for (int64_t i = 0; i < ring * plan.pitch; i += kLanes) {
      store_vec(ring_values + i, V{});
      if constexpr (kSelect) store_vec(ring_taps + i, splat<I>(-1));
    }
    prepare_divisors();
  }
  void prepare_spread() {
    active = plan.width;
    windows = p.out[2];
    for (int64_t i = 0; i < plan.ring_d * plan.ring_h; ++i) ring_row[i] = -1;
    prepare_divisors();
  }
  void prepare_divisors() {
    if constexpr (!kSelect) {
      fill_divisors(p, first_window, windows, divisors);
      for (int64_t i = windows; i < round_up(windows, kLanes); ++i) divisors[i] = A{1};  // whole vectors divide
    }
  }

  void stage_taps(int64_t at, I* to) {
    const int64_t bytes = dtype_bytes(offsets.dtype), stride = offsets.stride[kW];
    if (unit_stride(offsets, kW)) {
      for (int64_t i = 0; i < windows; i += kLanes)
        store_up_to(to + i, load_taps<K>(offsets.data, at + i, bytes, windows - i), windows - i);
    } else {
      for (int64_t i = 0; i < windows; ++i) to[i] = static_cast<I>(load_tap(offsets.data, at + i * stride, bytes));
    }
  }

  // Stages output row (o, q) of the group's planes unless ring row `to` holds it.
  void fetch_row(int64_t group, int64_t o, int64_t q, int64_t to) {
    const int64_t row = o * p.out[1] + q;
    if (ring_row[to] == row) return;
    ring_row[to] = row;
    const int64_t planes = planes_in(group);
    const A by = kSelect ? A{1} : static_cast<A>(divisor_taps(p, 0, o) * divisor_taps(p, 1, q));
    for (int64_t g = 0; g < planes; ++g) {
      const int64_t plane = group * plan.group + g;
      const int64_t at = plan.spread ? g * p.out[2] : to * plan.pitch + g * plan.slot + staged_at;
      const int64_t from = plane_offset(p, dy, plane) + o * dy.stride[kD] + q * dy.stride[kH];
      A* value_row = (plan.spread ? row_values : ring_values) + at;
      stage_row(data<T>(dy) + from + first_window * dy.stride[kW], unit_stride(dy, kW) ? 1 : dy.stride[kW], windows, 0,
                1, 1, 0, value_row);
      if constexpr (kSelect) {
        stage_taps(plane_offset(p, offsets, plane) + o * offsets.stride[kD] + q * offsets.stride[kH] +
                       first_window * offsets.stride[kW],
                   (plan.spread ? row_taps : ring_taps) + at);
      } else {
        if constexpr (Policy::kWeighs)
          stage_row(data<T>(offsets) + plane_offset(p, offsets, plane) + o * offsets.stride[kD] +
                        q * offsets.stride[kH] + first_window * offsets.stride[kW],
                    unit_stride(offsets, kW) ? 1 : offsets.stride[kW], windows, 0, 1, 1, 0, beside);
        const A *divisor_row = divisors, *beside_row = beside;
        for (int64_t i = 0; i < windows; i += kLanes) {
          V v = load_vec(value_row + i);
          if constexpr (Policy::kWeighs)  // beyond the last window lies what an earlier row left: it must not count
            v = policy.weigh(v,
                             i + kLanes <= windows ? load_vec(beside_row + i) : load_part(beside_row + i, windows - i));
          store_up_to(value_row + i, v / (load_vec(divisor_row + i) * splat<A>(by)), windows - i);
        }
      }
    }
    if (plan.spread) spread_row(to * plan.pitch);
  }

  // Gives every position what it reads of the row: the value, and the tap that it must have been chosen by without w.
  void spread_row(int64_t to) {
    const A* values = row_values;
    const I *taps = row_taps, *windows_read = reads, *through = read_taps;
    for (int64_t j = 0, count = plan.pitch; j < count; j += kLanes) {
      const K window = load_vec(windows_read + j);
      store_vec(ring_values + to + j, gather(values, window));
      if constexpr (kSelect) store_vec(ring_taps + to + j, gather(taps, window) - load_vec(through + j));
    }
  }

  // Collects the staged rows that read input row (d, h).
  int64_t reading_rows(int64_t group, int64_t d, int64_t h) {
    int64_t count = 0;
    for_readers(p, 0, d, [&](int64_t o, int64_t td) {
      for_readers(p, 1, h, [&](int64_t q, int64_t th) {
        const int64_t to = o % plan.ring_d * plan.ring_h + q % plan.ring_h;
        fetch_row(group, o, q, to);
        row_at[count] = to * plan.pitch;
        row_tap[count++] = (td * p.kernel[1] + th) * p.kernel[2];
      });
    });
    return count;
  }

  // Sums `terms` shifted rows into `to`; kTerms is their number where it is small, else 0.
  template <int kTerms>
  CONVKIT_INLINE void sum_terms(int64_t terms, A* to) {
    const int64_t count = kTerms != 0 ? kTerms : terms, width = active;
    const A* values = ring_values;
    const I* taps = ring_taps;
    const int64_t *at = term_at, *number = term_tap;
    int64_t fixed_at[kTerms != 0 ? kTerms : 1];
    K fixed_number[kTerms != 0 ? kTerms : 1];
    for (int i = 0; i < kTerms; ++i) {
      fixed_at[i] = at[i];
      fixed_number[i] = splat<I>(static_cast<I>(number[i]));
    }
    for (int64_t j = 0; j < width; j += kLanes) {
      V sum{};
      for (int64_t i = 0; i < count; ++i) {
        const int64_t from = (kTerms != 0 ? fixed_at[i] : at[i]) + j;
        const V v = load_vec(values + from);
        if constexpr (kSelect) {
          const K tap = kTerms != 0 ? fixed_number[i] : splat<I>(static_cast<I>(number[i]));
          sum = sum + (load_vec(taps + from) == tap ? v : V{});
        } else {
          sum = sum + v;
        }
      }
      store_vec(to + j, sum);
    }
  }

  // Phase f of an input row from `rows` staged rows.
  CONVKIT_INLINE void gather_phase(int64_t f, int64_t rows) {
    int64_t terms = 0;
    for (int64_t i = 0; i < rows && plan.spread; ++i)
      for (int64_t r = 0; r < plan.readers; ++r) {
        term_at[terms] = row_at[i] + r * plan.width;
        term_tap[terms++] = row_tap[i];
      }
    for (int64_t i = 0; i < rows && !plan.spread; ++i)
      for (int64_t k = tap_begin[f]; k < tap_begin[f + 1]; ++k) {
        term_at[terms] = row_at[i] + plan.reach - tap_shift[k];
        term_tap[terms++] = row_tap[i] + tap_number[k];
      }
    A* to = phases + f * plan.width;
    switch (terms) {
      case 1: return sum_terms<1>(terms, to);
      case 2: return sum_terms<2>(terms, to);
      case 4: return sum_terms<4>(terms, to);
      case 9: return sum_terms<9>(terms, to);
      case 25: return sum_terms<25>(terms, to);
      default: return sum_terms<0>(terms, to);
    }
  }

  void input_row(int64_t group, int64_t tile, int64_t d, int64_t h) {
    const int64_t s = plan.spread ? 1 : p.stride[2], rows = reading_rows(group, d, h);
    for (int64_t f = 0; f < s; ++f) gather_phase(f, rows);
    const int64_t start = plan.spread ? 0 : tile * plan.columns * s - p.pad_before[2];
    const int64_t begin = greater(0, start), end = lesser(p.in[2], start + plan.columns * s);
    const int64_t to = d * dx.stride[kD] + h * dx.stride[kH] + begin * dx.stride[kW];
    const int64_t planes = planes_in(group);
    for (int64_t g = 0; g < planes; ++g) {
      T* row = data<T>(dx) + plane_offset(p, dx, group * plan.group + g) + to;
      const int64_t count = greater(0, end - begin), step = unit_stride(dx, kW) ? 1 : dx.stride[kW];
      if constexpr (Policy::kWeighs) {
        unstage_row(phases + g * plan.slot, plan.width, s, begin - start, count, line, 1);
        apply_row(group * plan.group + g, d, h, begin, count);
        unstage_row(line, 0, 1, 0, count, row, step);
      } else {
        unstage_row(phases + g * plan.slot, plan.width, s, begin - start, count, row, step);
      }
    }
  }

  // line[i] = policy.apply(line[i], x[i]), x being the part of `plane` that dx's row belongs to.
  CONVKIT_INLINE void apply_row(int64_t plane, int64_t d, int64_t h, int64_t begin, int64_t count) {
    if constexpr (Policy::kWeighs) {
      const TensorView& x = *policy.x;
      const T* from =
          data<T>(x) + plane_offset(p, x, plane) + d * x.stride[kD] + h * x.stride[kH] + begin * x.stride[kW];
      A *to = line, *elements = beside;
      stage_row(from, unit_stride(x, kW) ? 1 : x.stride[kW], count, 0, 1, 1, 0, elements);
      for (int64_t i = 0; i < count; i += kLanes)
        store_vec(to + i, policy.apply(load_vec(to + i), load_vec(elements + i)));
    }
  }

  bool run(int64_t begin, int64_t end) {
    if (!carve_scratch(this, plan)) return false;
    prepare_taps();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t band = unit % plan.bands, tile = unit / plan.bands % plan.tiles;
      const int64_t group = unit / plan.bands / plan.tiles;
      prepare_tile(tile);
      const int64_t last = lesser(plan.rows, (band + 1) * plan.band);
      for (int64_t row = band * plan.band; row < last; ++row) input_row(group, tile, row / p.in[1], row % p.in[1]);
    }
    policy.done();
    return true;
  }
};

template <typename Policy, typename T>
Status gather_rows(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx,
                   const Policy& policy = {}) {
  if (p.n * p.c == 0) return kOk;
  const GatherPlan plan = plan_gather(p, Lanes<pool_accumulate_t<T>>::count);
  Failure failure;
  const int64_t elements = plan.group * plan.columns * (plan.spread ? 1 : p.stride[2]) * plan.band;
  for_units(plan.units(), elements, [&](int64_t begin, int64_t end) {
    RowGather<Policy, T> task{p, dy, offsets, dx, plan, policy};
    if (!task.run(begin, end)) failure.raise();
  });
  return failure.status();
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
