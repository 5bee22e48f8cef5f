// The pooling template for windows of two columns that tile the input, and its adjoint: the commonest pooling of all.
//
// Computes  y[o] = policy over the taps of x;  dx[i] = dy of i's window where i was chosen, or dy / divisor
// Layout    rows of unit stride in every tensor
// Mapping   a unit is an output row. Two vectors of columns are reduced over the window's rows, and then the even
//           columns with the odd ones; on the way back a vector of windows becomes two of columns, for each row.
// Memory    every element is read and written once, straight from tensor to tensor: nothing is staged, so that rows
//           shorter than a vector cost little. What lies ahead is asked for (stream.h).
// Limits    stride equal to the kernel, two along w, no padding. Rows and columns beyond the last window get 0.
#pragma once

#include "cpu/pool_lanes.h"
#include "cpu/pool_tasks.h"
#include "cpu/stream.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// x and y are the tensors of the input's and of the output's size; offsets may have no data.
CONVKIT_INLINE bool tiles_apply(const PoolProblem& p, const TensorView& x, const TensorView& y,
                                const TensorView& offsets) {
  if (p.adaptive || p.kernel[2] != 2) return false;
  for (int i = 0; i < kMaxSpatial; ++i) {
    if (p.kernel[i] != p.stride[i] || p.pad_before[i] != 0 || p.out[i] * p.kernel[i] > p.in[i]) return false;
    if (p.kernel[i] != 1 && p.dilation[i] != 1) return false;
  }
  return unit_stride(x, kW) && unit_stride(y, kW) && (offsets.data == nullptr || unit_stride(offsets, kW));
}

// Output rows one after the other, without a division for each.
struct TileRow {
  int64_t n, c, o, q;
  CONVKIT_INLINE TileRow(const PoolProblem& p, int64_t row)
      : n(row / p.out[1] / p.out[0] / p.c),
        c(row / p.out[1] / p.out[0] % p.c),
        o(row / p.out[1] % p.out[0]),
        q(row % p.out[1]) {}
  CONVKIT_INLINE void next(const PoolProblem& p) {
    if (++q < p.out[1]) return;
    q = 0;
    if (++o < p.out[0]) return;
    o = 0;
    if (++c == p.c) c = 0, ++n;
  }
  CONVKIT_INLINE int64_t of_output(const TensorView& t) const { return offset(t, n, c, o, q, 0); }
  CONVKIT_INLINE int64_t of_input(const PoolProblem& p, const TensorView& t) const {
    return offset(t, n, c, o * p.kernel[0], q * p.kernel[1], 0);
  }
};

CONVKIT_INLINE int64_t tile_divisor(const PoolProblem& p) {
  return divisor_taps(p, 0, 0) * divisor_taps(p, 1, 0) * divisor_taps(p, 2, 0);
}

template <typename F>
CONVKIT_INLINE void for_tile_rows(const PoolProblem& p, const F& run) {
  for_units(p.n * p.c * p.out[0] * p.out[1], p.kernel[0] * p.kernel[1] * p.in[2], [&](int64_t begin, int64_t end) {
    TileRow row(p, begin);
    for (int64_t i = begin; i < end; ++i, row.next(p)) run(row);
  });
}

template <typename Policy, typename T, bool kOffsets>
Status pool_tiles(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  constexpr int64_t lanes = Lanes<A>::count;
  const V divisor = splat<A>(Policy::kDivides ? static_cast<A>(tile_divisor(p)) : A{1});
  for_tile_rows(p, [&](const TileRow& row) {
    const T* from = data<T>(x) + row.of_input(p, x);
    T* to = data<T>(y) + row.of_output(y);
    for (int64_t j = 0; j < p.out[2]; j += lanes) {
      const int64_t n = p.out[2] - j, behind = 2 * n - lanes;
      V low{}, high{};
      K low_tap{}, high_tap{};
      for (int64_t td = 0; td < p.kernel[0]; ++td)
        for (int64_t th = 0; th < p.kernel[1]; ++th) {
          const T* at = from + td * x.stride[kD] + th * x.stride[kH] + 2 * j;
          ask_to_read(at);
          ask_to_read(at + lanes);
          const V a = load_up_to(at, 2 * n), b = behind > 0 ? load_up_to(at + lanes, behind) : V{};
          const K tap = splat<I>(static_cast<I>((td * p.kernel[1] + th) * 2));
          if (td == 0 && th == 0) {
            low = a;
            high = b;
          } else if constexpr (kOffsets) {
            Policy::choose(low, low_tap, a, tap);
            Policy::choose(high, high_tap, b, tap);
          } else {
            Policy::reduce(low, a);
            Policy::reduce(high, b);
          }
        }
      V v = every_second<0>(low, high, LaneNumbers<A>{});
      const V odd = every_second<1>(low, high, LaneNumbers<A>{});
      if constexpr (kOffsets) {
        K tap = every_second<0>(low_tap, high_tap, LaneNumbers<A>{});
        choose_by_tap(v, tap, odd, every_second<1>(low_tap, high_tap, LaneNumbers<A>{}) + splat<I>(1));
        store_taps(offsets.data, row.of_output(offsets) + j, dtype_bytes(offsets.dtype), tap, n);
      } else {
        Policy::reduce(v, odd);
      }
      if constexpr (Policy::kDivides) v = v / divisor;
      store_up_to(to + j, v, n);
    }
  });
  return kOk;
}

template <typename T>
CONVKIT_INLINE void clear(T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = T{};
}

template <typename T, bool kSelect>
Status spread_tiles(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  constexpr int64_t lanes = Lanes<A>::count;
  const V divisor = splat<A>(kSelect ? A{1} : static_cast<A>(tile_divisor(p)));
  for_tile_rows(p, [&](const TileRow& row) {
    const T* from = data<T>(dy) + row.of_output(dy);
    T* to = data<T>(dx) + row.of_input(p, dx);
    for (int64_t j = 0; j < p.out[2]; j += lanes) {
      const int64_t n = p.out[2] - j, behind = 2 * n - lanes;
      V v = load_up_to(from + j, n);
      K tap{};
      if constexpr (kSelect)
        tap = load_taps<K>(offsets.data, row.of_output(offsets) + j, dtype_bytes(offsets.dtype), n);
      else
        v = v / divisor;
      const V low = zipped<0>(v, v, LaneNumbers<A>{}), high = zipped<1>(v, v, LaneNumbers<A>{});
      const K low_tap = zipped<0>(tap, tap, LaneNumbers<A>{}), high_tap = zipped<1>(tap, tap, LaneNumbers<A>{});
      for (int64_t td = 0; td < p.kernel[0]; ++td)
        for (int64_t th = 0; th < p.kernel[1]; ++th) {
          T* at = to + td * dx.stride[kD] + th * dx.stride[kH] + 2 * j;
          ask_to_write(at);
          ask_to_write(at + lanes);
          const K here = (lane_numbers<A>() & splat<I>(1)) + splat<I>(static_cast<I>((td * p.kernel[1] + th) * 2));
          store_up_to(at, kSelect ? (low_tap == here ? low : V{}) : low, 2 * n);
          if (behind > 0) store_up_to(at + lanes, kSelect ? (high_tap == here ? high : V{}) : high, behind);
        }
    }
    // What no window reads: the last columns, the rows below the last window, and the planes behind it.
    const int64_t used = 2 * p.out[2], rows = row.q + 1 == p.out[1] ? p.in[1] - row.q * p.kernel[1] : p.kernel[1];
    const int64_t depth = row.o + 1 == p.out[0] ? p.in[0] - row.o * p.kernel[0] : p.kernel[0];
    for (int64_t d = 0; d < depth; ++d)
      for (int64_t h = 0; h < rows; ++h) {
        const int64_t kept = d < p.kernel[0] && h < p.kernel[1] ? used : 0;
        clear(to + d * dx.stride[kD] + h * dx.stride[kH] + kept, p.in[2] - kept);
      }
  });
  return kOk;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
