// The adjoint of a selection, plane by plane: the gradient of every window is added to the element that it chose.
//
// Computes  dx[i] = sum of dy[o] over the windows o whose chosen tap reads i
// Layout    any; meant for planes
// Mapping   a unit is a plane: one addition per window, in row major order, so the bits are those of the gather along
//           rows. That adds as many terms per element as windows overlap, whether chosen or not.
// Memory    the plane is made in scratch memory, where it stays in the cache, with margins for taps that lie in the
//           padding; then it is written to dx, each element once.
// Limits    planes of up to kMostScattered bytes with their margins. Offsets that name no tap are left out.
#pragma once

#include "cpu/pool_staging.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kMostScattered = int64_t{1} << 19;

// A plane with the margins that windows reach into: `before` elements, and what the last window needs behind.
struct Margins {
  Spatial before, size;

  static CONVKIT_INLINE Margins of(const PoolProblem& p) {
    Margins m{p.pad_before, p.in};
    for (int i = 0; i < 3; ++i) {
      const int64_t last = window_start(p, i, p.out[i] - 1) + (p.kernel[i] - 1) * p.dilation[i];
      m.size[i] = p.pad_before[i] + greater(p.in[i], last + 1);
    }
    return m;
  }
  CONVKIT_INLINE int64_t at(int64_t d, int64_t h, int64_t w) const { return (d * size[1] + h) * size[2] + w; }
};

template <typename T>
CONVKIT_INLINE bool scatter_applies(const PoolProblem& p) {
  if (volume(p.out) == 0) return false;
  const Margins m = Margins::of(p);
  int64_t elements = volume(p.kernel);  // of the plane and the table of taps
  for (int i = 0; i < 3; ++i)
    if (m.size[i] > kMostScattered) return false;
  elements += volume(m.size);
  return elements <= kMostScattered / static_cast<int64_t>(sizeof(pool_accumulate_t<T>));
}

// Adding a window costs as much as ten terms of the gather, which adds one for every tap of every window; to turn
// planes of short rows for it costs one per element. (Adaptive windows are smaller than the kernel.)
CONVKIT_INLINE bool scatter_pays(const PoolProblem& p, bool turned) {
  constexpr int64_t kTermsOfWindow = 10;
  const int64_t turning = turned && !p.adaptive ? volume(p.in) / greater(1, volume(p.out)) : 0;
  return volume(p.kernel) + turning > kTermsOfWindow;
}

// Whole numbers wrap around, as they do in vectors.
template <typename A>
CONVKIT_INLINE A wrapping_sum(A a, A b) {
  A sum{};
  if constexpr (IsFloating<A>::value)
    sum = a + b;
  else
    static_cast<void>(__builtin_add_overflow(a, b, &sum));
  return sum;
}

// kAdaptive: windows are of unlike sizes, and some of the kernel's taps lie outside of a window.
template <typename T, bool kAdaptive>
struct PlaneScatter {
  using A = pool_accumulate_t<T>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &dy, &offsets, &dx;
  Margins margins;
  int64_t taps;

  A* plane = nullptr;
  int64_t* start = nullptr;  // per window along w: its first element in the plane with margins
  int64_t* end = nullptr;    // and, if adaptive, how many taps it has
  int32_t* place = nullptr;  // per tap: how far from the window's first element it lies
  Spatial* split = nullptr;  // and its position in the window, if adaptive

  void carve(Carver& c, const PoolProblem&) {
    c.take(&plane, volume(margins.size) + 2 * kLanes);  // whole vectors are cleared, and read, at the end
    c.take(&start, p.out[2]);
    c.take(&place, taps);
    if constexpr (kAdaptive) {
      c.take(&end, p.out[2]);
      c.take(&split, taps);
    }
  }

  void prepare() {
    const int64_t elements = round_up(volume(margins.size), kLanes);
    for (int64_t i = 0; i < elements; i += kLanes) store_vec(plane + i, Vec<A>{});
    for (int64_t q = 0; q < p.out[2]; ++q) {
      start[q] = window_start(p, 2, q) + p.pad_before[2];
      if constexpr (kAdaptive) end[q] = tap_range(p, 2, q).end;
    }
    int64_t tap = 0;
    for (int64_t d = 0; d < p.kernel[0]; ++d)
      for (int64_t h = 0; h < p.kernel[1]; ++h)
        for (int64_t w = 0; w < p.kernel[2]; ++w, ++tap) {
          place[tap] = static_cast<int32_t>(margins.at(d * p.dilation[0], h * p.dilation[1], w * p.dilation[2]));
          if constexpr (kAdaptive) split[tap] = Spatial{{d, h, w}};
        }
  }

  // The windows of one row; `to` is where the row's windows start in d and h.
  template <typename O>
  CONVKIT_INLINE void row(const T* from, const O* chosen, int64_t rows_d, int64_t rows_h, A* to) const {
    const int64_t windows = p.out[2], step = dy.stride[kW], tap_step = offsets.stride[kW], count = taps;
    const int64_t* first = start;
    const int32_t* at = place;
    for (int64_t r = 0; r < windows; ++r) {
      const uint64_t tap = static_cast<uint64_t>(static_cast<int64_t>(chosen[r * tap_step]));
      if (tap >= static_cast<uint64_t>(count)) continue;
      if constexpr (kAdaptive)
        if (split[tap][0] >= rows_d || split[tap][1] >= rows_h || split[tap][2] >= end[r]) continue;
      A& sum = to[first[r] + at[tap]];
      sum = wrapping_sum(sum, load_one(from + r * step));
    }
  }

  // Where the rows (or planes) begin that window o is the last of all to be added before: all before them are complete.
  CONVKIT_INLINE int64_t complete(int dim, int64_t o) const {
    if (o == 0 || o == p.out[dim]) return o == 0 ? 0 : p.in[dim];
    return greater(0, lesser(p.in[dim], window_start(p, dim, o)));
  }

  // Adds the windows of a plane. Behind each row of windows the rows that no later window reads go to dx.
  template <typename O>
  CONVKIT_INLINE void add(int64_t n, int64_t c) const {
    for (int64_t o = 0; o < p.out[0]; ++o) {
      const TapRange d = tap_range(p, 0, o);
      const int64_t d0 = complete(0, o), d1 = complete(0, o + 1);
      for (int64_t q = 0; q < p.out[1]; ++q) {
        const TapRange h = tap_range(p, 1, q);
        row(data<T>(dy) + offset(dy, n, c, o, q, 0), data<O>(offsets) + offset(offsets, n, c, o, q, 0), d.end, h.end,
            plane + margins.at(d.start + p.pad_before[0], h.start + p.pad_before[1], 0));
        const int64_t h0 = complete(1, q), h1 = complete(1, q + 1);
        for (int64_t in_d = d0; in_d < d1; ++in_d)
          for (int64_t in_h = h0; in_h < h1; ++in_h) hand_over(n, c, in_d, in_h);
      }
    }
  }

  // Writes one row to dx, and leaves zeros for the next plane.
  CONVKIT_INLINE void hand_over(int64_t n, int64_t c, int64_t d, int64_t h) const {
    A* from = plane + margins.at(d + p.pad_before[0], h + p.pad_before[1], p.pad_before[2]);
    T* to = data<T>(dx) + offset(dx, n, c, d, h, 0);
    unstage_row(from, 0, 1, 0, p.in[2], to, unit_stride(dx, kW) ? 1 : dx.stride[kW]);
    for (int64_t i = 0; i < p.in[2]; i += kLanes) store_up_to(from + i, Vec<A>{}, p.in[2] - i);
  }

  bool run(int64_t begin, int64_t last) {
    if (!carve_scratch(this, p)) return false;
    prepare();
    for (int64_t i = begin; i < last; ++i) {
      switch (dtype_bytes(offsets.dtype)) {
        case 1: add<uint8_t>(i / p.c, i % p.c); break;
        case 2: add<int16_t>(i / p.c, i % p.c); break;
        default: add<int32_t>(i / p.c, i % p.c); break;
      }
    }
    return true;
  }
};

template <typename T>
Status scatter_planes(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  Failure failure;
  const auto run = [&](auto task, int64_t begin, int64_t end) {
    if (!task.run(begin, end)) failure.raise();
  };
  for_units(p.n * p.c, volume(p.in), [&](int64_t begin, int64_t end) {
    const Margins margins = Margins::of(p);
    if (p.adaptive)
      run(PlaneScatter<T, true>{p, dy, offsets, dx, margins, volume(p.kernel)}, begin, end);
    else
      run(PlaneScatter<T, false>{p, dy, offsets, dx, margins, volume(p.kernel)}, begin, end);
  });
  return failure.status();
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
