// The pooling template for windows that are a whole plane (global pooling), and its adjoint.
//
// Computes  y = policy over all elements of a plane;  dx[i] = dy where i was chosen, or dy / divisor
// Layout    planes contiguous in x (dx); y, dy and offsets any
// Mapping   a unit is a plane: vectors along it; the lanes of as many planes as a vector has are reduced together
// Limits    one window without padding that covers the plane exactly: the offset is the position in the plane
#pragma once

#include "cpu/pool_lanes.h"

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

// Steps through planes without a division for each.
struct Plane {
  int64_t n, c;
  CONVKIT_INLINE Plane(const PoolProblem& p, int64_t plane) : n(plane / p.c), c(plane % p.c) {}
  CONVKIT_INLINE void next(const PoolProblem& p) {
    if (++c == p.c) c = 0, ++n;
  }
  CONVKIT_INLINE int64_t offset(const TensorView& t) const { return n * t.stride[kN] + c * t.stride[kC]; }
};

template <typename Policy, typename T, bool kOffsets>
Status pool_plane(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                  const Policy& policy = {}) {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  constexpr int64_t lanes = Lanes<A>::count;
  const int64_t count = volume(p.in);
  const bool side_by_side = (p.c == 1 || y.stride[kC] == 1) && (p.n == 1 || y.stride[kN] == p.c);
  const Vec<A> divisor = splat<A>(Policy::kDivides ? static_cast<A>(plane_divisor(p)) : A{1});
  for_units(p.n * p.c, count, [&](int64_t begin, int64_t end) {
    Policy op = policy;
    Plane from(p, begin), to(p, begin);
    for (int64_t plane = begin; plane < end; plane += lanes) {
      const int64_t planes = lesser(lanes, end - plane);
      Vec<A> v[lanes];
      Vec<I> at[lanes];
      for (int64_t k = 0; k < lanes; ++k) {  // of the last planes, some more than once
        if constexpr (kOffsets)
          reduce_run<Policy, T, true>(op, data<T>(x) + from.offset(x), count, v + k, at + k);
        else
          reduce_long_run(op, data<T>(x) + from.offset(x), count, v + k);
        if (k + 1 < planes) from.next(p);
      }
      from.next(p);
      if constexpr (kOffsets)
        choose_lanes<A>(v, at);
      else
        reduce_lanes<Policy, A>(v);
      if constexpr (Policy::kDivides) v[0] = v[0] / divisor;
      v[0] = op.finish(v[0]);
      if (side_by_side) store_up_to(data<T>(y) + to.offset(y), v[0], planes);
      for (int64_t k = 0; k < planes; ++k, to.next(p)) {
        if (!side_by_side) store_one(data<T>(y) + to.offset(y), static_cast<A>(v[0][k]));
        op.review(p, x, y, to.n, to.c, Spatial{{0, 0, 0}}, int64_t{1});
        if constexpr (kOffsets) store_tap(offsets.data, to.offset(offsets), dtype_bytes(offsets.dtype), at[0][k]);
      }
    }
    op.done();
  });
  return kOk;
}

template <typename Policy, typename T>
Status spread_plane(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx,
                    const Policy& policy = {}) {
  constexpr bool kSelect = Policy::kSelect;
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  constexpr int64_t lanes = Lanes<A>::count;
  const int64_t count = volume(p.in);
  const A divisor = kSelect ? A{1} : static_cast<A>(plane_divisor(p));
  for_units(p.n * p.c, count, [&](int64_t begin, int64_t end) {
    Policy op = policy;
    Plane plane(p, begin);
    for (int64_t i = begin; i < end; ++i, plane.next(p)) {
      T* to = data<T>(dx) + plane.offset(dx);
      const A value = load_one(data<T>(dy) + plane.offset(dy));
      const Vec<A> v = splat<A>(kSelect ? value : static_cast<A>(value / divisor));
      if constexpr (kSelect) {
        const int64_t chosen = load_tap(offsets.data, plane.offset(offsets), dtype_bytes(offsets.dtype));
        for (int64_t i = 0; i < count; i += lanes) {
          const Vec<I> here = splat<I>(static_cast<I>(chosen - i));
          store_up_to(to + i, lane_numbers<A>() == here ? v : Vec<A>{}, count - i);
        }
      } else if constexpr (Policy::kWeighs) {
        const T* from = data<T>(*op.x) + plane.offset(*op.x);
        const Vec<A> weighted = op.weigh(v, splat<A>(load_one(data<T>(offsets) + plane.offset(offsets))));
        for (int64_t i = 0; i < count; i += lanes)
          store_up_to(to + i, op.apply(weighted, load_padded(from + i, count - i, A{0})), count - i);
      } else {
        for (int64_t i = 0; i < count; i += lanes) store_up_to(to + i, v, count - i);
      }
    }
    op.done();
  });
  return kOk;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
