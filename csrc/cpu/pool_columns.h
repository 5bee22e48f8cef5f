// The pooling template with columns first: windows of unlike sizes, and large strides.
//
// Computes  y[o] = policy over the taps of x (and the chosen tap of each window)
// Layout    any; rows of unit stride are read as vectors
// Mapping   a unit is a group of planes x a band of output rows. A window's rows are reduced to one row, vectors along
//           w. Then narrow windows lie in the lanes of a vector and their taps are gathered; of wide ones each is
//           reduced to a vector, and as many as a vector has lanes to the lanes of one. The windows of all planes of
//           a group follow each other. Wide windows of one row are read where they lie.
// Memory    each input row is read once per window that has it, straight from the tensor; the reduced rows and the
//           results of a row stay in the cache.
// Limits    no dilation. Elements of several rows meet out of order: chosen taps are compared where values are equal.
#pragma once

#include "cpu/pool_lanes.h"
#include "cpu/pool_staging.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kLongestRow = 1 << 18;  // a row lies in scratch memory; longer ones go to pool_rows.h in tiles

CONVKIT_INLINE bool columns_apply(const PoolProblem& p) {
  const bool dilated = p.dilation[0] != 1 || p.dilation[1] != 1 || p.dilation[2] != 1;
  return p.adaptive || (p.stride[2] > kShuffledStride && !dilated && p.in[2] <= kLongestRow);
}

struct ColumnPlan {
  int64_t planes, group, groups;  // planes whose windows follow each other, and how many such groups
  int64_t rows, band, bands;      // output rows (o, p), rows per band
  int64_t windows;                // of a group's row, in whole vectors
  bool narrow;                    // whether taps are gathered
  bool in_place;                  // whether windows are read where they lie
  CONVKIT_INLINE int64_t units() const { return groups * bands; }
};

CONVKIT_INLINE ColumnPlan plan_columns(const PoolProblem& p, const TensorView& x, int64_t lanes) {
  constexpr int64_t kColumns = 4096;
  ColumnPlan r{};
  r.planes = p.n * p.c;
  r.group = lesser(planes_abreast(r.planes, p.out[2], lanes), greater(1, kColumns / p.in[2]));
  r.groups = ceil_div(r.planes, r.group);
  r.windows = round_up(r.group * p.out[2], lanes);
  r.narrow = p.kernel[2] < lanes;
  r.in_place = !r.narrow && p.kernel[0] * p.kernel[1] == 1 && x.stride[kW] == 1;
  r.rows = p.out[0] * p.out[1];
  const int64_t row_elements = r.group * p.in[2] * window_step(p, 1) * window_step(p, 0);
  const int64_t bands = band_count(r.groups, r.rows, row_elements);
  r.band = ceil_div(r.rows, bands);
  r.bands = ceil_div(r.rows, r.band);
  return r;
}

template <typename Policy, typename T, bool kOffsets>
struct ColumnPool {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;
  static constexpr int kRows = 4;  // rows of a window at a time

  const PoolProblem& p;
  const TensorView &x, &y, &offsets;
  const ColumnPlan& plan;

  A* columns = nullptr;      // group x in: each column's element over the rows of the current windows
  I* column_taps = nullptr;  // and its tap number before w is added
  int64_t* start = nullptr;  // per window along w: its first element, how many it has, and the first one's tap
  int64_t* count = nullptr;
  I* first_tap = nullptr;  // per result
  I* reads = nullptr;      // narrow, kernel x windows: the column that tap t of each window reads
  A* divisors = nullptr;   // per result: what w contributes to the divisor
  A* result = nullptr;     // group x out
  I* result_taps = nullptr;

  void carve(Carver& c, const ColumnPlan& r) {
    c.take(&columns, r.group * p.in[2] + 2 * kLanes);  // a vector may overlap the end, and behind it lies padding
    if constexpr (kOffsets) c.take(&column_taps, r.group * p.in[2] + 2 * kLanes);
    if (r.narrow) c.take(&reads, p.kernel[2] * r.windows);
    c.take(&start, p.out[2]);
    c.take(&count, p.out[2]);
    if constexpr (kOffsets) c.take(&first_tap, r.windows);
    if constexpr (Policy::kDivides) c.take(&divisors, r.windows);
    c.take(&result, r.windows);
    if constexpr (kOffsets) c.take(&result_taps, r.windows);
  }

  void prepare() {
    for (int64_t q = 0; q < p.out[2]; ++q) {
      const TapRange w = tap_range(p, 2, q);
      start[q] = w.start + w.begin;
      count[q] = w.end - w.begin;
    }
    if constexpr (kOffsets)
      for (int64_t i = 0; i < plan.windows; ++i) first_tap[i] = static_cast<I>(tap_range(p, 2, i % p.out[2]).begin);
    if (plan.narrow) prepare_reads();
    if constexpr (Policy::kDivides) {
      for (int64_t i = 0; i < plan.windows; ++i)  // whole vectors divide
        divisors[i] = static_cast<A>(divisor_taps(p, 2, i % p.out[2]));
    }
  }

  // A window that ends early reads padding, whose tap is beyond all others.
  void prepare_reads() {
    const int64_t padding = plan.group * p.in[2] + kLanes;
    columns[padding] = pad_value<Policy, T>();
    if constexpr (kOffsets) column_taps[padding] = std::numeric_limits<I>::max() / 2;
    for (int64_t i = 0; i < plan.windows; ++i) {
      const int64_t q = i % p.out[2], plane = i / p.out[2];
      for (int64_t t = 0; t < p.kernel[2]; ++t)
        reads[t * plan.windows + i] =
            static_cast<I>(plane < plan.group && t < count[q] ? plane * p.in[2] + start[q] + t : padding);
    }
  }

  CONVKIT_INLINE V load_columns(const T* src, int64_t n) const {
    if (x.stride[kW] == 1) return n >= kLanes ? load_vec(src) : load_part(src, n);
    V v{};
    for (int64_t i = 0; i < lesser(n, kLanes); ++i) v[i] = load_one(src + i * x.stride[kW]);
    return v;
  }

  // Takes kRows rows into the columns from `to` on; `first`: nothing lies there yet. Their elements have tap numbers
  // from taps[i] on.
  template <int kRows>
  CONVKIT_INLINE void reduce_rows(const T* const* rows, const I* taps, int64_t to, bool first) {
    const int64_t n = p.in[2], step = x.stride[kW];
    for (int64_t j = 0; j < n; j += kLanes) {
      V v{};
      K at{};
      if (!first) {
        v = load_vec(columns + to + j);
        if constexpr (kOffsets) at = load_vec(column_taps + to + j);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const V next = load_columns(rows[r] + j * step, n - j);
        ask_to_read(rows[r] + j * step);
        const K tap = splat<I>(taps[r]);
        if (first && r == 0)
          v = next, at = tap;
        else if constexpr (kOffsets)
          Policy::choose(v, at, next, tap);
        else
          Policy::reduce(v, next);
      }
      store_vec(columns + to + j, v);  // what lies behind n is overwritten, or never read
      if constexpr (kOffsets) store_vec(column_taps + to + j, at);
    }
  }

  // The rows of a window, some at a time: memory is read nearly in its order, and columns few times.
  CONVKIT_INLINE void reduce_plane(const T* plane, int64_t to, const TapRange& d, const TapRange& h) {
    const T* rows[kRows];
    I taps[kRows];
    int held = 0;
    bool first = true;
    for (int64_t td = d.begin; td < d.end; ++td)
      for (int64_t th = h.begin; th < h.end; ++th) {
        rows[held] = plane + (d.start + td) * x.stride[kD] + (h.start + th) * x.stride[kH];
        taps[held] = static_cast<I>((td * p.kernel[1] + th) * p.kernel[2]);
        if (++held < kRows) continue;
        reduce_rows<kRows>(rows, taps, to, first);
        first = false;
        held = 0;
      }
    for (int i = 0; i < held; ++i, first = false) reduce_rows<1>(rows + i, taps + i, to, first);
  }

  // The window q of the plane whose columns begin at `from`, as a vector of partial results.
  CONVKIT_INLINE void reduce_window(int64_t from, int64_t q, V* v, K* at) const {
    const A pad = pad_value<Policy, T>();
    const A* src = columns + from + start[q];
    const int64_t n = count[q];
    V best = load_padded(src, n, pad);  // in a register: what `v` points to lies in memory
    if constexpr (kOffsets) {
      // Padding has the last tap of all, so that an equal element is chosen before it.
      constexpr I last = std::numeric_limits<I>::max();
      const I* taps = column_taps + from + start[q];
      const auto taps_at = [&](int64_t i) CONVKIT_INLINE_LAMBDA {
        const K tap = lane_numbers<A>() + splat<I>(static_cast<I>(first_tap[q] + i));
        return n - i >= kLanes
                   ? load_vec(taps + i) + tap
                   : (lane_numbers<A>() < splat<I>(static_cast<I>(n - i)) ? load_vec(taps + i) + tap : splat<I>(last));
      };
      K chosen = taps_at(0);
      for (int64_t i = kLanes; i < n; i += kLanes)
        choose_by_tap(best, chosen, load_padded(src + i, n - i, pad), taps_at(i));
      *at = chosen;
    } else {
      for (int64_t i = kLanes; i < n; i += kLanes) Policy::reduce(best, load_padded(src + i, n - i, pad));
    }
    *v = best;
  }

  // Windows i, i + 1, ...
  CONVKIT_INLINE void gather_windows(int64_t i, V* v, K* at) const {
    const int64_t taps = p.kernel[2], pitch = plan.windows;
    const K first = load_vec(reads + i);
    *v = gather<A>(columns, first);
    if constexpr (kOffsets) *at = gather<I>(column_taps, first);
    for (int64_t t = 1; t < taps; ++t) {
      const K from = load_vec(reads + t * pitch + i);
      if constexpr (kOffsets)
        choose_by_tap(*v, *at, gather<A>(columns, from), gather<I>(column_taps, from) + splat<I>(static_cast<I>(t)));
      else
        Policy::reduce(*v, gather<A>(columns, from));
    }
    if constexpr (kOffsets) *at = *at + load_vec(first_tap + i);
  }

  // The same, one after the other; `g` and `r` are the plane and the window along w of the first, and then of the next.
  // `row` is the place in its plane of a row that is read there.
  CONVKIT_INLINE void reduce_windows(int64_t n, int64_t first, int64_t row, int64_t* g, int64_t* r, V* v, K* at) const {
    V parts[kLanes];
    K taps[kLanes] = {};
    for (int64_t k = 0; k < kLanes; ++k) {
      if (k < n) {
        if (plan.in_place) {
          const T* window = data<T>(x) + plane_offset(p, x, first + *g) + row + start[*r];
          reduce_run<Policy, T, kOffsets>(Policy{}, window, count[*r], parts + k, taps + k);
          if constexpr (kOffsets) taps[k] = taps[k] + splat<I>(first_tap[*r]);
        } else {
          reduce_window(*g * p.in[2], *r, parts + k, taps + k);
        }
        if (++*r == p.out[2]) *r = 0, ++*g;
      } else {
        parts[k] = parts[0];
      }
    }
    if constexpr (kOffsets)
      choose_lanes<A>(parts, taps);
    else
      reduce_lanes<Policy, A>(parts);
    *v = parts[0];
    *at = taps[0];
  }

  void output_row(int64_t group, int64_t o, int64_t q) {
    const TapRange d = tap_range(p, 0, o), h = tap_range(p, 1, q);
    const int64_t first = group * plan.group, planes = lesser(plan.group, plan.planes - first);
    for (int64_t g = 0; g < planes && !plan.in_place; ++g) {
      const T* plane = data<T>(x) + plane_offset(p, x, first + g);
      reduce_plane(plane, g * p.in[2], d, h);
    }
    const int64_t only_row = d.start * x.stride[kD] + h.start * x.stride[kH];
    const V by = splat<A>(static_cast<A>(Policy::kDivides ? divisor_taps(p, 0, o) * divisor_taps(p, 1, q) : 1));
    const int64_t windows = planes * p.out[2];
    for (int64_t i = 0, g = 0, r = 0; i < windows; i += kLanes) {
      V v;
      K at{};
      if (plan.narrow)
        gather_windows(i, &v, &at);
      else
        reduce_windows(windows - i, first, only_row, &g, &r, &v, &at);
      if constexpr (Policy::kDivides) v = v / (load_vec(divisors + i) * by);
      store_vec(result + i, v);
      if constexpr (kOffsets) store_vec(result_taps + i, at);
    }
    for (int64_t g = 0; g < planes; ++g) store_row(first + g, g * p.out[2], o, q);
  }

  CONVKIT_INLINE void store_row(int64_t plane, int64_t from, int64_t o, int64_t q) const {
    const int64_t n = p.out[2], bytes = kOffsets ? dtype_bytes(offsets.dtype) : 0;
    T* to = data<T>(y) + plane_offset(p, y, plane) + o * y.stride[kD] + q * y.stride[kH];
    const int64_t taps_to =
        kOffsets ? plane_offset(p, offsets, plane) + o * offsets.stride[kD] + q * offsets.stride[kH] : 0;
    if (unit_stride(y, kW) && (!kOffsets || unit_stride(offsets, kW))) {
      for (int64_t j = 0; j < n; j += kLanes) {
        store_up_to(to + j, load_up_to(result + from + j, n - j), n - j);
        if constexpr (kOffsets)
          store_taps(offsets.data, taps_to + j, bytes, load_up_to(result_taps + from + j, n - j), n - j);
      }
      return;
    }
    for (int64_t j = 0; j < n; ++j) {
      store_one(to + j * y.stride[kW], result[from + j]);
      if constexpr (kOffsets) store_tap(offsets.data, taps_to + j * offsets.stride[kW], bytes, result_taps[from + j]);
    }
  }

  bool run(int64_t begin, int64_t end) {
    if (!carve_scratch(this, plan)) return false;
    prepare();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / plan.bands, band = unit % plan.bands;
      const int64_t last = lesser(plan.rows, (band + 1) * plan.band);
      for (int64_t row = band * plan.band; row < last; ++row) output_row(group, row / p.out[1], row % p.out[1]);
    }
    return true;
  }
};

template <typename Policy, typename T, bool kOffsets>
Status pool_columns(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  if (numel(y) == 0) return kOk;
  const ColumnPlan plan = plan_columns(p, x, Lanes<pool_accumulate_t<T>>::count);
  Failure failure;
  const int64_t elements = plan.group * p.in[2] * plan.band * window_step(p, 1);
  for_units(plan.units(), elements, [&](int64_t begin, int64_t end) {
    ColumnPool<Policy, T, kOffsets> task{p, x, y, offsets, plan};
    if (!task.run(begin, end)) failure.raise();
  });
  return failure.status();
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
