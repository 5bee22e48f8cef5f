// The pooling template along rows: any strides, any kernel, vectors along w.
//
// Computes  y[o] = policy over the taps of x (and the chosen tap of each window)
// Layout    any; rows of unit stride are read and written as vectors
// Mapping   a unit is a group of planes x a band of output rows x a tile of columns; a task is a run of units.
//           The rows of small planes lie side by side in one buffer, so that vectors are full.
// Memory    each input row is staged once (phases, padding written once), reduced along w into a ring of rows,
//           and the ring rows of a window are reduced along h and d. Reducing the fastest dimension first keeps the
//           window's row major order, so ties and NaN are right without carrying positions through.
#pragma once

#include "cpu/pool_staging.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

struct RowPlan {
  int64_t planes, group, groups;  // planes side by side, and how many such groups
  int64_t columns, tiles;         // outputs per plane and column tile
  int64_t rows, band, bands;      // output rows (o, p), rows per band
  int64_t slot, width, pitch;     // positions per plane, per ring row, per staged phase
  int64_t phases, ring;           // staged phases; ring rows
  CONVKIT_INLINE int64_t units() const { return groups * tiles * bands; }
};

CONVKIT_INLINE RowPlan plan_rows(const PoolProblem& p, int64_t lanes) {
  constexpr int64_t kColumns = 1024;
  const int64_t s = p.stride[2], reach = (p.kernel[2] - 1) * p.dilation[2];
  RowPlan r{};
  r.planes = p.n * p.c;
  r.columns = lesser(p.out[2], kColumns);
  r.tiles = ceil_div(p.out[2], r.columns);
  r.slot = ceil_div((r.columns - 1) * s + reach + 1, s);
  r.group = r.tiles == 1 ? planes_abreast(r.planes, r.slot, lanes) : 1;
  r.groups = ceil_div(r.planes, r.group);
  r.width = round_up(r.group == 1 ? r.columns : r.group * r.slot, lanes);
  r.phases = lesser(s, reach + 1);
  r.pitch = round_up(r.width + reach / s + lanes, lanes);
  r.ring = p.kernel[0] * p.kernel[1];
  r.rows = p.out[0] * p.out[1];
  const int64_t bands = band_count(r.groups * r.tiles, r.rows, r.group * r.columns * s * p.stride[1]);
  r.band = ceil_div(r.rows, bands);
  r.bands = ceil_div(r.rows, r.band);
  return r;
}

template <typename Policy, typename T, bool kOffsets>
struct RowPool {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &x, &y, &offsets;
  const RowPlan& plan;
  Policy policy;

  A* staged = nullptr;          // phases x pitch
  A* ring_values = nullptr;     // ring x width
  I* ring_taps = nullptr;       // ring x width, only with offsets
  int64_t* ring_row = nullptr;  // which input row (d, h) a ring row holds
  int64_t* tap_at = nullptr;    // where tap t of window 0 lies in `staged`
  I* first_tap = nullptr;       // per position: the first tap inside the input
  A* divisors = nullptr;        // per position: what w contributes to the divisor
  const A** values = nullptr;   // the ring rows of the current window
  const I** taps = nullptr;
  int64_t* row_tap = nullptr;  // their tap number before w is added
  A* result = nullptr;         // width: the output row, where it cannot go to y directly
  I* result_taps = nullptr;
  int64_t staged_at = 0, staged_count = 0, first_column = 0;  // this tile's part of an input row
  bool misses = false;  // some window of the tile has no element along w: its offset is 0
  int64_t active = 0;   // positions in use: the last tile can be narrower

  void carve(Carver& c, const RowPlan& r) {
    c.take(&staged, r.phases * r.pitch);
    c.take(&ring_values, r.ring * r.width);
    if constexpr (kOffsets) c.take(&ring_taps, r.ring * r.width);
    c.take(&ring_row, r.ring);
    c.take(&tap_at, p.kernel[2]);
    if constexpr (kOffsets) c.take(&first_tap, r.width);
    if constexpr (Policy::kDivides) c.take(&divisors, r.width);
    c.take(&values, r.ring);
    if constexpr (kOffsets) c.take(&taps, r.ring);
    c.take(&row_tap, r.ring);
    c.take(&result, r.width + kLanes);
    if constexpr (kOffsets) c.take(&result_taps, r.width + kLanes);
  }

  CONVKIT_INLINE int64_t planes_in(int64_t group) const { return lesser(plan.group, plan.planes - group * plan.group); }

  // Whether the window of column q has no element at all; only dilation over a small input brings that about.
  CONVKIT_INLINE bool misses_input(int64_t q) const {
    if (p.dilation[2] <= p.in[2]) return false;
    const TapRange w = tap_range(p, 2, q);
    return w.begin == w.end;
  }

  void prepare_taps() {
    for (int64_t t = 0; t < p.kernel[2]; ++t) tap_at[t] = staged_place(t * p.dilation[2], p.stride[2], plan.pitch);
  }

  // Everything that depends on the column tile alone.
  void prepare_tile(int64_t tile) {
    const int64_t q0 = tile * plan.columns, columns = lesser(plan.columns, p.out[2] - q0);
    const int64_t start = q0 * p.stride[2] - p.pad_before[2];
    const int64_t span = (columns - 1) * p.stride[2] + (p.kernel[2] - 1) * p.dilation[2] + 1;
    staged_at = start < 0 ? -start : 0;
    active = plan.group == 1 ? round_up(columns, kLanes) : plan.width;
    first_column = start + staged_at;
    staged_count = greater(0, lesser(p.in[2], start + span) - first_column);
    const V pad = splat<A>(pad_value<Policy, T>());
    for (int64_t i = 0; i < plan.phases * plan.pitch; i += kLanes) store_vec(staged + i, pad);
    for (int64_t i = 0; i < plan.ring; ++i) ring_row[i] = -1;
    if constexpr (kOffsets) {
      for (int64_t j = 0; j < plan.width; ++j) first_tap[j] = 0;
      for (int64_t q = 0; q < columns && (q0 + q) * p.stride[2] < p.pad_before[2]; ++q)
        for (int64_t g = 0; g < plan.group; ++g)
          first_tap[g * plan.slot + q] = static_cast<I>(tap_range(p, 2, q0 + q).begin);
      misses = false;
      for (int64_t q = 0; q < columns; ++q) misses = misses || misses_input(q0 + q);
    }
    if constexpr (Policy::kDivides) {
      for (int64_t j = 0; j < plan.width; ++j) divisors[j] = A{1};
      for (int64_t g = 0; g < plan.group; ++g) fill_divisors(p, q0, columns, divisors + g * plan.slot);
    }
  }

  // Reduces the staged row along w into ring row `to`. (Pointers are copied to locals: vector stores may alias *this.)
  template <int kTaps>
  CONVKIT_INLINE void reduce_columns(int64_t to) {
    const int64_t count = kTaps != 0 ? kTaps : p.kernel[2], width = active;
    A* value_row = ring_values + to * plan.width;
    I* tap_row = ring_taps + to * plan.width;
    const A* row = staged;
    const I* first = first_tap;
    const int64_t* tap_offset = tap_at;
    const auto element = [op = policy](const A* at) CONVKIT_INLINE_LAMBDA {
      if constexpr (Policy::kEntersOnce)
        return load_vec(at);
      else
        return op.enter(load_vec(at));
    };
    int64_t fixed[kTaps != 0 ? kTaps : 1];
    if constexpr (kTaps != 0) {
      for (int t = 0; t < kTaps; ++t) fixed[t] = tap_offset[t];
      tap_offset = fixed;
    }
    for (int64_t j = 0; j < width; j += kLanes) {
      V v = element(row + j);
      if constexpr (kOffsets) {
        K at = load_vec(first + j);
        for (int64_t t = 1; t < count; ++t)
          Policy::choose(v, at, element(row + tap_offset[t] + j), splat<I>(static_cast<I>(t)));
        store_vec(tap_row + j, at);
      } else {
        for (int64_t t = 1; t < count; ++t) Policy::reduce(v, element(row + tap_offset[t] + j));
      }
      store_vec(value_row + j, v);
    }
  }

  // Stages input row (d, h) of the group's planes and reduces it, unless ring row `to` holds it already.
  void fetch_row(int64_t group, int64_t d, int64_t h, int64_t to) {
    const int64_t row = d * p.in[1] + h;
    if (ring_row[to] == row) return;
    ring_row[to] = row;
    const int64_t inside = d * x.stride[kD] + h * x.stride[kH] + first_column * x.stride[kW];
    const int64_t planes = planes_in(group);
    for (int64_t g = 0; g < planes; ++g) {
      A* to_plane = staged + g * plan.slot;
      stage_row(data<T>(x) + plane_offset(p, x, group * plan.group + g) + inside, x.stride[kW], staged_count, staged_at,
                p.stride[2], plan.phases, plan.pitch, to_plane);
      if constexpr (Policy::kEntersOnce)
        for_staged<A>(staged_count, staged_at, p.stride[2], plan.phases, plan.pitch, [&](int64_t at, int64_t count) {
          A* run = to_plane + at;
          for (int64_t i = 0; i < count; i += kLanes) store_up_to(run + i, policy.enter(load_vec(run + i)), count - i);
        });
    }
    switch (p.kernel[2]) {
      case 2: reduce_columns<2>(to); break;
      case 3: reduce_columns<3>(to); break;
      default: reduce_columns<0>(to); break;
    }
  }

  // Collects the ring rows of output row (o, q); at least one, a row of padding if the window misses the input.
  int64_t window_rows(int64_t group, const TapRange& d, const TapRange& h) {
    int64_t count = 0;
    for (int64_t td = d.begin; td < d.end; ++td)
      for (int64_t th = h.begin; th < h.end; ++th) {
        const int64_t in_h = h.start + th * p.dilation[1];
        // Undilated windows share rows: keyed by position, a row outlives the window that fetched it.
        const int64_t to = td * p.kernel[1] + (p.dilation[1] == 1 ? in_h % p.kernel[1] : th);
        fetch_row(group, d.start + td * p.dilation[0], in_h, to);
        push_row(count++, to, td * p.kernel[1] + th);
      }
    if (count > 0) return count;
    ring_row[0] = -1;
    for (int64_t j = 0; j < plan.width; j += kLanes) {
      store_vec(ring_values + j, splat<A>(pad_value<Policy, T>()));
      if constexpr (kOffsets) store_vec(ring_taps + j, K{});
    }
    push_row(0, 0, 0);
    return 1;
  }
  CONVKIT_INLINE void push_row(int64_t i, int64_t ring_at, int64_t tap_row) {
    values[i] = ring_values + ring_at * plan.width;
    if constexpr (kOffsets) taps[i] = ring_taps + ring_at * plan.width;
    row_tap[i] = tap_row * p.kernel[2];
  }

  // One output row from `count` ring rows; `emit(j, value, tap)` stores a vector of it.
  template <int kRows, typename F>
  CONVKIT_INLINE void reduce_rows(int64_t rows, int64_t row_divisor, const F& emit) {
    const int64_t count = kRows != 0 ? kRows : rows, width = active;
    const A* fixed_values[kRows != 0 ? kRows : 1];
    const I* fixed_taps[kRows != 0 ? kRows : 1];
    const A* const* value_rows = values;
    const I* const* tap_rows = taps;
    const int64_t* tap_base = row_tap;
    int64_t fixed_base[kRows != 0 ? kRows : 1];
    if constexpr (kRows != 0) {
      for (int i = 0; i < kRows; ++i) {
        fixed_values[i] = values[i];
        fixed_base[i] = row_tap[i];
        if constexpr (kOffsets) fixed_taps[i] = taps[i];
      }
      value_rows = fixed_values;
      tap_rows = fixed_taps;
      tap_base = fixed_base;
    }
    const A* divisor_row = divisors;
    const V by = splat<A>(static_cast<A>(row_divisor));
    for (int64_t j = 0; j < width; j += kLanes) {
      V v = load_vec(value_rows[0] + j);
      K at{};
      if constexpr (kOffsets) {
        at = load_vec(tap_rows[0] + j) + splat<I>(static_cast<I>(tap_base[0]));
        for (int64_t i = 1; i < count; ++i)
          Policy::choose(v, at, load_vec(value_rows[i] + j),
                         load_vec(tap_rows[i] + j) + splat<I>(static_cast<I>(tap_base[i])));
      } else {
        for (int64_t i = 1; i < count; ++i) Policy::reduce(v, load_vec(value_rows[i] + j));
      }
      if constexpr (Policy::kDivides) v = v / (load_vec(divisor_row + j) * by);
      emit(j, policy.finish(v), at);
    }
  }
  template <typename F>
  CONVKIT_INLINE void reduce_rows(int64_t rows, int64_t row_divisor, const F& emit) {
    switch (rows) {
      case 2: return reduce_rows<2>(rows, row_divisor, emit);
      case 3: return reduce_rows<3>(rows, row_divisor, emit);
      default: return reduce_rows<0>(rows, row_divisor, emit);
    }
  }

  void output_row(int64_t group, int64_t tile, int64_t o, int64_t q) {
    const int64_t rows = window_rows(group, tap_range(p, 0, o), tap_range(p, 1, q));
    const int64_t divisor = Policy::kDivides ? divisor_taps(p, 0, o) * divisor_taps(p, 1, q) : 1;
    const int64_t r0 = tile * plan.columns, columns = lesser(plan.columns, p.out[2] - r0);
    const int64_t y_row = o * y.stride[kD] + q * y.stride[kH] + r0 * y.stride[kW];
    const int64_t offset_row = o * offsets.stride[kD] + q * offsets.stride[kH] + r0 * offsets.stride[kW];
    const int64_t bytes = kOffsets ? dtype_bytes(offsets.dtype) : 0, first = group * plan.group;
    const bool direct = unit_stride(y, kW) && (!kOffsets || unit_stride(offsets, kW));
    if (plan.group == 1 && direct && !(kOffsets && misses)) {
      T* to = data<T>(y) + plane_offset(p, y, first) + y_row;
      const int64_t taps_to = kOffsets ? plane_offset(p, offsets, first) + offset_row : 0;
      reduce_rows(rows, divisor, [&](int64_t j, V v, K at) CONVKIT_INLINE_LAMBDA {
        store_up_to(to + j, v, columns - j);
        if constexpr (kOffsets) store_taps(offsets.data, taps_to + j, bytes, at, columns - j);
      });
      policy.review(p, x, y, first / p.c, first % p.c, Spatial{{o, q, r0}}, columns);
      return;
    }
    reduce_rows(rows, divisor, [&](int64_t j, V v, K at) CONVKIT_INLINE_LAMBDA {
      store_vec(result + j, v);
      if constexpr (kOffsets) store_vec(result_taps + j, at);
    });
    const int64_t planes = planes_in(group);
    if constexpr (kOffsets) {
      for (int64_t q = 0; misses && q < columns; ++q)
        for (int64_t g = 0; misses_input(r0 + q) && g < planes; ++g) result_taps[g * plan.slot + q] = 0;
    }
    for (int64_t g = 0; g < planes; ++g) {
      T* to = data<T>(y) + plane_offset(p, y, first + g) + y_row;
      const int64_t taps_to = kOffsets ? plane_offset(p, offsets, first + g) + offset_row : 0;
      const A* from = result + g * plan.slot;
      const I* taps_from = result_taps + g * plan.slot;
      if (direct) {
        for (int64_t j = 0; j < columns; j += kLanes) {
          store_up_to(to + j, load_vec(from + j), columns - j);
          if constexpr (kOffsets) store_taps(offsets.data, taps_to + j, bytes, load_vec(taps_from + j), columns - j);
        }
      } else {
        for (int64_t j = 0; j < columns; ++j) {
          store_one(to + j * y.stride[kW], from[j]);
          if constexpr (kOffsets) store_tap(offsets.data, taps_to + j * offsets.stride[kW], bytes, taps_from[j]);
        }
      }
      policy.review(p, x, y, (first + g) / p.c, (first + g) % p.c, Spatial{{o, q, r0}}, columns);
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
      for (int64_t row = band * plan.band; row < last; ++row) output_row(group, tile, row / p.out[1], row % p.out[1]);
    }
    policy.done();
    return true;
  }
};

template <typename Policy, typename T, bool kOffsets>
Status pool_rows(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                 const Policy& policy = {}) {
  if (p.n * p.c == 0) return kOk;
  const RowPlan plan = plan_rows(p, Lanes<pool_accumulate_t<T>>::count);
  Failure failure;
  const int64_t elements = plan.group * plan.columns * p.stride[2] * plan.band * p.stride[1];
  for_units(plan.units(), elements, [&](int64_t begin, int64_t end) {
    RowPool<Policy, T, kOffsets> task{p, x, y, offsets, plan, policy};
    if (!task.run(begin, end)) failure.raise();
  });
  return failure.status();
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
