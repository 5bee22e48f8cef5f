// Pooling templates that see the elements of a window one by one, in row major order: for operations whose result
// depends on that order, or that go over a window more than once.
//
// Computes  op.run<A>(window, draw, y, chosen) for every window; window(f) calls f(x, tap) for each of its taps
//           inside the input (and for taps in the padding with x = 0). draw is its number in [0, 1), if op chooses
//           (kChooses, with op.keys): that of its position in a contiguous N C O P Q result
// Layout    any
// Mapping   channels: lanes are channels, straight from x or from small planes that are turned (pool_turned.h). Rows:
//           lanes are windows along w, of one plane or of small planes side by side. Single: one window at a time, for
//           windows too large to be kept.
// Memory    draws: those of a row of windows (of all channels) are made before its windows, which then need not wait.
//           Rows: each input row is staged once (phases, zeros for padding written once) into a ring as deep as a
//           window is high; at most kMostStaged bytes.
#pragma once

#include "cpu/pool_channels.h"
#include "cpu/pool_philox.h"
#include "cpu/pool_rows.h"
#include "cpu/pool_turned.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kMostStaged = int64_t{4} << 20;

// Index of window (o, q, r) of a plane.
CONVKIT_INLINE uint64_t window_index(const PoolProblem& p, int64_t plane, int64_t o, int64_t q, int64_t r) {
  return static_cast<uint64_t>(((plane * p.out[0] + o) * p.out[1] + q) * p.out[2] + r);
}

// Where the taps of a vector's windows lie, in row major order, and their numbers.
template <typename E, typename I>
struct TapList {
  const E** from = nullptr;
  I* number = nullptr;
  int64_t count = 0;

  void carve(Carver& c, const PoolProblem& p) {
    c.take(&from, volume(p.kernel));
    c.take(&number, volume(p.kernel));
  }
  CONVKIT_INLINE void push(const E* at, int64_t tap) {
    from[count] = at;
    number[count++] = static_cast<I>(tap);
  }

  // Calls f(window) with window(j, g) calling g(x, tap) for each tap, elements j on of each. Windows of common sizes
  // are copied to registers, and their elements then loaded once.
  template <typename F>
  CONVKIT_INLINE void visit(const F& f) const {
    switch (count) {
      case 4: return visit_sized<4>(f);
      case 9: return visit_sized<9>(f);
      default: return visit_sized<0>(f);
    }
  }
  template <int kCount, typename F>
  CONVKIT_INLINE void visit_sized(const F& f) const {
    using K = Vec<I>;
    const E* fixed[kCount != 0 ? kCount : 1];
    I fixed_number[kCount != 0 ? kCount : 1];
    for (int i = 0; i < kCount; ++i) fixed[i] = from[i], fixed_number[i] = number[i];
    const E* const* at = kCount != 0 ? fixed : from;
    const I* numbers = kCount != 0 ? fixed_number : number;
    const int64_t taps = kCount != 0 ? kCount : count;
    f([&](int64_t j, const auto& g) CONVKIT_INLINE_LAMBDA {
      for (int64_t i = 0; i < taps; ++i) g(load_vec(at[i] + j), K{} + numbers[i]);
    });
  }
};

// T: elements of x; O: elements of y, with the same accumulate type.
template <typename Op, typename T, typename O>
struct ChannelWindows {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &x, &y, &offsets;
  const Op& op;
  int64_t first_plane;  // channel 0 of image 0
  TapList<T, I> taps;
  A* draws = nullptr;  // of all channels of a window

  void carve(Carver& c, const PoolProblem& problem) {
    taps.carve(c, problem);
    if constexpr (Op::kChooses) c.take(&draws, problem.c + kLanes);
  }

  void row(int64_t n, int64_t o, int64_t q) {
    const TapRange d = tap_range(p, 0, o), h = tap_range(p, 1, q);
    const int64_t step = p.dilation[2] * x.stride[kW], bytes = Op::kChooses ? dtype_bytes(offsets.dtype) : 0;
    const uint64_t plane = static_cast<uint64_t>(volume(p.out));
    const lane_words_t<A> lanes = lane_steps<A>(plane);
    for (int64_t r = 0; r < p.out[2]; ++r) {
      const TapRange w = tap_range(p, 2, r);
      const T* start = data<T>(x) + n * x.stride[kN] + w.start * x.stride[kW];
      taps.count = 0;
      for (int64_t td = d.begin; td < d.end; ++td)
        for (int64_t th = h.begin; th < h.end; ++th)
          for (int64_t tw = w.begin; tw < w.end; ++tw)
            taps.push(start + (d.start + td * p.dilation[0]) * x.stride[kD] +
                          (h.start + th * p.dilation[1]) * x.stride[kH] + tw * step,
                      (td * p.kernel[1] + th) * p.kernel[2] + tw);
      O* to = data<O>(y) + offset(y, n, 0, o, q, r);
      const int64_t taps_to = Op::kChooses ? offset(offsets, n, 0, o, q, r) : 0;
      const uint64_t first = window_index(p, first_plane + n * p.c, o, q, r);
      const A* u = draws;
      if constexpr (Op::kChooses)
        draw_row(
            p.c,
            [&](int64_t c) CONVKIT_INLINE_LAMBDA {
              for (int64_t i = 0; i < taps.count; ++i) __builtin_prefetch(taps.from[i] + c);  // what comes next
              return lanes + (first + static_cast<uint64_t>(c) * plane);
            },
            op.keys, draws);
      taps.visit([&](const auto& window_at) CONVKIT_INLINE_LAMBDA {
        for (int64_t next = 0; next < p.c; next += kLanes) {
          const int64_t c = lesser(next, p.c - kLanes);  // the last vector overlaps the one before
          V value;
          K chosen;
          op.template run<A>([&](const auto& f) CONVKIT_INLINE_LAMBDA { window_at(c, f); },
                             Op::kChooses ? load_vec(u + c) : V{}, value, chosen);
          store_vec(to + c, value);
          if constexpr (Op::kChooses) store_taps(offsets.data, taps_to + c, bytes, chosen, kLanes);
        }
      });
    }
  }

  bool run(int64_t begin, int64_t end) {
    if (!carve_scratch(this, p)) return false;
    const int64_t rows = p.out[0] * p.out[1];
    for (int64_t i = begin; i < end; ++i) row(i / rows, i % rows / p.out[1], i % p.out[1]);
    return true;
  }
};

template <typename Op, typename T, typename O>
struct RowWindows {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &x, &y, &offsets;
  const Op& op;
  const RowPlan& plan;

  A* ring = nullptr;            // ring x phases x pitch
  int64_t* ring_row = nullptr;  // which input row (d, h) a ring row holds
  int64_t* x_plane = nullptr;   // where the group's planes start, in x, y and offsets
  int64_t* y_plane = nullptr;
  int64_t* offsets_plane = nullptr;
  int64_t* tap_at = nullptr;         // where tap t of window 0 lies in a staged row
  TapList<A, I> taps{};              // of the windows of the current output row
  lane_words_t<A>* index = nullptr;  // per vector: its windows, counted from the group's first one
  A* draws = nullptr;                // width: of one output row
  A* result = nullptr;               // width: one output row
  I* chosen = nullptr;
  int64_t staged_at = 0, staged_count = 0, first_column = 0;  // this tile's part of an input row
  int64_t active = 0;                                         // positions in use: the last tile can be narrower

  void carve(Carver& c, const RowPlan& r) {
    c.take(&ring, r.ring * r.phases * r.pitch);
    c.take(&ring_row, r.ring);
    c.take(&x_plane, r.group);
    c.take(&y_plane, r.group);
    if constexpr (Op::kChooses) c.take(&offsets_plane, r.group);
    c.take(&tap_at, p.kernel[2]);
    taps.carve(c, p);
    c.take(&result, r.width + kLanes);
    if constexpr (Op::kChooses) {
      c.take(&index, r.width / kLanes);
      c.take(&draws, r.width + kLanes);
      c.take(&chosen, r.width + kLanes);
    }
  }

  CONVKIT_INLINE int64_t planes_in(int64_t group) const { return lesser(plan.group, plan.planes - group * plan.group); }

  void prepare_taps() {
    for (int64_t t = 0; t < p.kernel[2]; ++t) tap_at[t] = staged_place(t * p.dilation[2], p.stride[2], plan.pitch);
    if constexpr (Op::kChooses)
      for (int64_t j = 0; j < plan.width; ++j) {
        const int64_t g = plan.group == 1 ? 0 : j / plan.slot;
        set_lane(index[j / kLanes], j % kLanes, static_cast<uint64_t>(g * volume(p.out) + j - g * plan.slot));
      }
  }

  // Divisions that every row would repeat.
  void prepare_planes(int64_t group) {
    for (int64_t g = 0; g < planes_in(group); ++g) {
      const int64_t plane = group * plan.group + g;
      x_plane[g] = plane_offset(p, x, plane);
      y_plane[g] = plane_offset(p, y, plane);
      if constexpr (Op::kChooses) offsets_plane[g] = plane_offset(p, offsets, plane);
    }
  }

  void prepare_tile(int64_t tile) {
    const int64_t r0 = tile * plan.columns, columns = lesser(plan.columns, p.out[2] - r0);
    const int64_t start = r0 * p.stride[2] - p.pad_before[2];
    const int64_t span = (columns - 1) * p.stride[2] + (p.kernel[2] - 1) * p.dilation[2] + 1;
    staged_at = start < 0 ? -start : 0;
    active = plan.group == 1 ? round_up(columns, kLanes) : plan.width;
    first_column = start + staged_at;
    staged_count = greater(0, lesser(p.in[2], start + span) - first_column);
    const int64_t staged = plan.ring * plan.phases * plan.pitch;
    for (int64_t i = 0; i < staged; i += kLanes) store_vec(ring + i, V{});
  }

  // Stages input row (d, h) of the group's planes unless ring row `to` holds it.
  void fetch_row(int64_t group, int64_t d, int64_t h, int64_t to) {
    const int64_t row = d * p.in[1] + h, planes = planes_in(group);
    if (ring_row[to] == row) return;
    ring_row[to] = row;
    const int64_t inside = d * x.stride[kD] + h * x.stride[kH] + first_column * x.stride[kW];
    for (int64_t g = 0; g < planes; ++g)
      stage_row(data<T>(x) + x_plane[g] + inside, x.stride[kW], staged_count, staged_at, p.stride[2], plan.phases,
                plan.pitch, ring + to * plan.phases * plan.pitch + g * plan.slot);
  }

  // Collects the taps of the windows of output row (o, q), those in the padding of w included.
  void fetch_rows(int64_t group, int64_t o, int64_t q) {
    const TapRange d = tap_range(p, 0, o), h = tap_range(p, 1, q);
    taps.count = 0;
    for (int64_t td = d.begin; td < d.end; ++td)
      for (int64_t th = h.begin; th < h.end; ++th) {
        const int64_t in_h = h.start + th * p.dilation[1];
        // Undilated windows share rows: keyed by position, a row outlives the window that fetched it.
        const int64_t to = td * p.kernel[1] + (p.dilation[1] == 1 ? in_h % p.kernel[1] : th);
        fetch_row(group, d.start + td * p.dilation[0], in_h, to);
        const A* row = ring + to * plan.phases * plan.pitch;
        for (int64_t tw = 0; tw < p.kernel[2]; ++tw)
          taps.push(row + tap_at[tw], (td * p.kernel[1] + th) * p.kernel[2] + tw);
      }
  }

  // The windows of one output row. (Pointers are copied to locals: vector stores may alias *this.)
  void run_row(uint64_t first) {
    if constexpr (Op::kChooses) draw_row(active, [&](int64_t j) { return index[j / kLanes] + first; }, op.keys, draws);
    taps.visit([&](const auto& window_at) CONVKIT_INLINE_LAMBDA {
      const int64_t width = active;
      const A* u = draws;
      A* values_to = result;
      I* chosen_to = chosen;
      for (int64_t j = 0; j < width; j += kLanes) {
        V value;
        K tap;
        op.template run<A>([&](const auto& f) CONVKIT_INLINE_LAMBDA { window_at(j, f); },
                           Op::kChooses ? load_vec(u + j) : V{}, value, tap);
        store_vec(values_to + j, value);
        if constexpr (Op::kChooses) store_vec(chosen_to + j, tap);
      }
    });
  }

  void output_row(int64_t group, int64_t tile, int64_t o, int64_t q) {
    const int64_t r0 = tile * plan.columns, columns = lesser(plan.columns, p.out[2] - r0), planes = planes_in(group);
    fetch_rows(group, o, q);
    run_row(window_index(p, group * plan.group, o, q, r0));
    const int64_t y_row = offset(y, 0, 0, o, q, r0);
    const int64_t offsets_row = Op::kChooses ? offset(offsets, 0, 0, o, q, r0) : 0;
    for (int64_t g = 0; g < planes; ++g) {
      O* to = data<O>(y) + y_plane[g] + y_row;
      const A* values = result + g * plan.slot;
      if (unit_stride(y, kW))
        for (int64_t j = 0; j < columns; j += kLanes) store_up_to(to + j, load_vec(values + j), columns - j);
      else
        for (int64_t j = 0; j < columns; ++j) store_one(to + j * y.stride[kW], values[j]);
      if constexpr (Op::kChooses) {
        const int64_t at = offsets_plane[g] + offsets_row;
        const int64_t bytes = dtype_bytes(offsets.dtype), step = offsets.stride[kW];
        const I* taps = chosen + g * plan.slot;
        if (unit_stride(offsets, kW))
          for (int64_t j = 0; j < columns; j += kLanes)
            store_taps(offsets.data, at + j, bytes, load_vec(taps + j), columns - j);
        else
          for (int64_t j = 0; j < columns; ++j) store_tap(offsets.data, at + j * step, bytes, taps[j]);
      }
    }
  }

  bool run(int64_t begin, int64_t end) {
    if (!carve_scratch(this, plan)) return false;
    prepare_taps();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t band = unit % plan.bands, tile = unit / plan.bands % plan.tiles;
      const int64_t group = unit / plan.bands / plan.tiles;
      prepare_planes(group);
      prepare_tile(tile);
      for (int64_t i = 0; i < plan.ring; ++i) ring_row[i] = -1;
      const int64_t last = lesser(plan.rows, (band + 1) * plan.band);
      for (int64_t row = band * plan.band; row < last; ++row) output_row(group, tile, row / p.out[1], row % p.out[1]);
    }
    return true;
  }
};

template <typename Op, typename T, typename O>
struct SingleWindows {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;

  const PoolProblem& p;
  const TensorView &x, &y, &offsets;
  const Op& op;

  void row(int64_t plane, int64_t o, int64_t q) const {
    const TapRange d = tap_range(p, 0, o), h = tap_range(p, 1, q);
    for (int64_t r = 0; r < p.out[2]; ++r) {
      const TapRange w = tap_range(p, 2, r);
      const auto window = [&](const auto& f) CONVKIT_INLINE_LAMBDA {
        const T* from = data<T>(x) + plane_offset(p, x, plane) + offset(x, 0, 0, d.start, h.start, w.start);
        for (int64_t td = d.begin; td < d.end; ++td)
          for (int64_t th = h.begin; th < h.end; ++th)
            for (int64_t tw = w.begin; tw < w.end; ++tw)
              f(load_one(from + offset(x, 0, 0, td * p.dilation[0], th * p.dilation[1], tw * p.dilation[2])),
                static_cast<I>((td * p.kernel[1] + th) * p.kernel[2] + tw));
      };
      A value;
      I tap;
      A draw{};
      if constexpr (Op::kChooses) draw = philox_uniform(window_index(p, plane, o, q, r), op.keys);
      op.template run<A>(window, draw, value, tap);
      store_one(data<O>(y) + plane_offset(p, y, plane) + offset(y, 0, 0, o, q, r), value);
      if constexpr (Op::kChooses)
        store_tap(offsets.data, plane_offset(p, offsets, plane) + offset(offsets, 0, 0, o, q, r),
                  dtype_bytes(offsets.dtype), tap);
    }
  }
};

// Runs `op` on every window of x; offsets is read by operations that choose (kChooses).
template <typename T, typename O, typename Op>
Status pool_windows(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                    const Op& op) {
  using A = pool_accumulate_t<T>;
  constexpr int64_t lanes = Lanes<A>::count;
  Failure failure;
  if (p.n * p.c == 0) return kOk;
  const int64_t rows = p.out[0] * p.out[1], row_elements = p.out[2] * p.stride[2] * p.stride[1];
  if (channel_vectors(x, lanes) && channel_vectors(y, lanes) && (!Op::kChooses || channel_vectors(offsets, lanes))) {
    for_units(p.n * rows, p.c * row_elements, [&](int64_t begin, int64_t end) {
      ChannelWindows<Op, T, O> task{p, x, y, offsets, op, 0, {}};
      if (!task.run(begin, end)) failure.raise();
    });
    return failure.status();
  }
  if constexpr (__is_same(T, O))  // rows of a whole vector need no turning
    if (p.out[2] != lanes && turning_pays<T>(p, x, y, offsets, false))
      return for_turned<T, Op::kChooses>(p, x, y, offsets, [&](const TurnedBlock<T>& block) {
        ChannelWindows<Op, T, O> task{block.p, block.x, block.y, block.offsets, op, block.first, {}};
        return task.run(0, rows);
      });
  const RowPlan plan = plan_rows(p, lanes);
  if (plan.ring * plan.phases * plan.pitch > kMostStaged / static_cast<int64_t>(sizeof(A))) {
    const SingleWindows<Op, T, O> windows{p, x, y, offsets, op};
    for_units(p.n * p.c * rows, row_elements, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) windows.row(i / rows, i % rows / p.out[1], i % p.out[1]);
    });
    return kOk;
  }
  for_units(plan.units(), plan.group * plan.columns * p.stride[2] * plan.band * p.stride[1],
            [&](int64_t begin, int64_t end) {
              RowWindows<Op, T, O> task{p, x, y, offsets, op, plan};
              if (!task.run(begin, end)) failure.raise();
            });
  return failure.status();
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
