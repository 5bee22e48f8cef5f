// The pooling template for windows that are a whole plane (global pooling), and its adjoint.
//
// Computes  y = policy over all elements of a plane;  dx[i] = dy where i was chosen, or dy / divisor
// Layout    planes contiguous in x (dx); y, dy and offsets any
// Mapping   a unit is a plane: vectors along it, then the lanes in order of position
// Limits    one window without padding that covers the plane exactly: the offset is the position in the plane
#pragma once

#include "cpu/pool_tasks.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

CONVKIT_INLINE bool plane_applies(const PoolProblem& p, const TensorView& x) {
  int64_t step = 1;
  for (int i = 2; i >= 0; --i) {
    if (p.out[i] != 1 || p.pad_before[i] != 0 || p.kernel[i] != p.in[i]) return false;
    if (p.in[i] != 1 && (p.dilation[i] != 1 || x.stride[kD + i] != step)) return false;
    step *= p.in[i];
  }
  return true;
}

CONVKIT_INLINE int64_t plane_divisor(const PoolProblem& p) {
  return divisor_taps(p, 0, 0) * divisor_taps(p, 1, 0) * divisor_taps(p, 2, 0);
}

template <typename A>
CONVKIT_INLINE Vec<tap_t<A>> lane_numbers() {
  Vec<tap_t<A>> v;
  for (int i = 0; i < Lanes<A>::count; ++i) v[i] = static_cast<tap_t<A>>(i);
  return v;
}

// A vector of src with `pad` from element n on.
template <typename T>
CONVKIT_INLINE Vec<pool_accumulate_t<T>> load_padded(const T* src, int64_t n, pool_accumulate_t<T> pad) {
  using A = pool_accumulate_t<T>;
  if (n >= Lanes<A>::count) return load_vec(src);
  return lane_numbers<A>() < splat<tap_t<A>>(static_cast<tap_t<A>>(n)) ? load_part(src, n) : splat<A>(pad);
}

template <typename Policy, typename T, bool kOffsets>
CONVKIT_INLINE void reduce_plane(const T* src, int64_t count, pool_accumulate_t<T>* value, int64_t* chosen) {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  constexpr int lanes = Lanes<A>::count;
  const A pad = pad_value<Policy, T>();
  Vec<A> v = load_padded(src, count, pad);
  if constexpr (kOffsets) {
    const Vec<I> first = lane_numbers<A>();
    Vec<I> at = first;
    for (int64_t i = lanes; i < count; i += lanes)
      Policy::choose(v, at, load_padded(src + i, count - i, pad), first + splat<I>(static_cast<I>(i)));
    // Lanes are not in order of position: of equal values the earlier one counts, of NaN the later.
    A best = v[0];
    I where = at[0];
    const int64_t used = lesser(lanes, count);
    for (int64_t i = 1; i < used; ++i) {
      const A candidate = v[i];
      const bool later = at[i] > where, nan = best != best;
      if (candidate != candidate ? (!nan || later) : (candidate > best || (candidate == best && !later))) {
        best = candidate;
        where = at[i];
      }
    }
    *value = best;
    *chosen = where;
  } else {
    for (int64_t i = lanes; i < count; i += lanes) Policy::reduce(v, load_padded(src + i, count - i, pad));
    A all = v[0];
    for (int i = 1; i < lanes; ++i) {
      const A lane = v[i];
      Policy::reduce(all, lane);
    }
    *value = all;
  }
}

template <typename Policy, typename T, bool kOffsets>
Status pool_plane(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  using A = pool_accumulate_t<T>;
  const int64_t count = volume(p.in);
  const A divisor = Policy::kDivides ? static_cast<A>(plane_divisor(p)) : A{1};
  for_units(p.n * p.c, count, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      A value;
      int64_t chosen = 0;
      reduce_plane<Policy, T, kOffsets>(data<T>(x) + plane_offset(p, x, plane), count, &value, &chosen);
      store_one(data<T>(y) + plane_offset(p, y, plane), Policy::kDivides ? static_cast<A>(value / divisor) : value);
      if constexpr (kOffsets)
        store_tap(offsets.data, plane_offset(p, offsets, plane), dtype_bytes(offsets.dtype), chosen);
    }
  });
  return kOk;
}

template <typename T, bool kSelect>
Status spread_plane(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  constexpr int64_t lanes = Lanes<A>::count;
  const int64_t count = volume(p.in);
  const A divisor = kSelect ? A{1} : static_cast<A>(plane_divisor(p));
  for_units(p.n * p.c, count, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      T* to = data<T>(dx) + plane_offset(p, dx, plane);
      const A value = load_one(data<T>(dy) + plane_offset(p, dy, plane));
      const Vec<A> v = splat<A>(kSelect ? value : static_cast<A>(value / divisor));
      if constexpr (kSelect) {
        const int64_t chosen = load_tap(offsets.data, plane_offset(p, offsets, plane), dtype_bytes(offsets.dtype));
        for (int64_t i = 0; i < count; i += lanes) {
          const Vec<I> here = splat<I>(static_cast<I>(chosen - i));
          store_up_to(to + i, lane_numbers<A>() == here ? v : Vec<A>{}, count - i);
        }
      } else {
        for (int64_t i = 0; i < count; i += lanes) store_up_to(to + i, v, count - i);
      }
    }
  });
  return kOk;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
