// max_pool, pool_select, pool_select_bwd, pool_indices: pools that choose one element of each window.
//
// Computes  max_pool         y[o] = max over taps of x, offset[o] = the chosen tap (first of ties; the last NaN wins)
//           pool_select      y[o] = x[start(o) + tap(offset[o]) * dilation]
//           pool_select_bwd  dx[i] = sum of dy[o] over the windows o whose chosen tap reads i
//           pool_indices     offset -> flat position in the unpadded plane
// Mapping   one task per (image, channel) plane.
#include "cpu/kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename F>
CONVKIT_INLINE void for_outputs(const Spatial& s, const F& f) {
  for (int64_t o = 0; o < s[0]; ++o)
    for (int64_t q = 0; q < s[1]; ++q)
      for (int64_t r = 0; r < s[2]; ++r) f(o, q, r);
}

CONVKIT_INLINE int64_t load_offset(const TensorView& offsets, int64_t at) {
  switch (dtype_bytes(offsets.dtype)) {
    case 1: return data<uint8_t>(offsets)[at];
    case 2: return data<int16_t>(offsets)[at];
    default: return data<int32_t>(offsets)[at];
  }
}

// The input position that a window offset names; false where an (invalid) offset names none.
CONVKIT_INLINE bool locate(const PoolProblem& p, int64_t o, int64_t q, int64_t r, int64_t tap, int64_t (&at)[3]) {
  const int64_t s = p.kernel[2], rs = p.kernel[1] * s;
  if (tap < 0 || tap >= p.kernel[0] * rs) return false;
  const int64_t taps[3] = {tap / rs, tap % rs / s, tap % s}, out[3] = {o, q, r};
  for (int i = 0; i < 3; ++i) {
    at[i] = out[i] * p.stride[i] - p.pad_before[i] + taps[i] * p.dilation[i];
    if (at[i] < 0 || at[i] >= p.in[i]) return false;
  }
  return true;
}

template <typename T>
void select_plane(const PoolProblem& p, const TensorView& x, const TensorView& offsets, const TensorView& y, int64_t n,
                  int64_t c) {
  for_outputs(p.out, [&](int64_t o, int64_t q, int64_t r) {
    int64_t at[3];
    const bool inside = locate(p, o, q, r, load_offset(offsets, offset(offsets, n, c, o, q, r)), at);
    data<T>(y)[offset(y, n, c, o, q, r)] = inside ? data<T>(x)[offset(x, n, c, at[0], at[1], at[2])] : T{};
  });
}

template <typename T>
void scatter_plane(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx,
                   int64_t n, int64_t c) {
  for_outputs(p.in, [&](int64_t d, int64_t h, int64_t w) {
    int64_t begin[3], end[3];
    const int64_t in[3] = {d, h, w};
    for (int i = 0; i < 3; ++i) covering_windows(p, i, in[i], &begin[i], &end[i]);
    accumulate_t<T> sum{};
    for (int64_t o = begin[0]; o < end[0]; ++o)
      for (int64_t q = begin[1]; q < end[1]; ++q)
        for (int64_t r = begin[2]; r < end[2]; ++r) {
          int64_t at[3];
          if (locate(p, o, q, r, load_offset(offsets, offset(offsets, n, c, o, q, r)), at) && at[0] == d &&
              at[1] == h && at[2] == w)
            sum = static_cast<accumulate_t<T>>(sum + load(data<T>(dy) + offset(dy, n, c, o, q, r)));
        }
    store(data<T>(dx) + offset(dx, n, c, d, h, w), sum);
  });
}

// Calls run(Type<T>, n, c) for every plane, in parallel; a refusal for dtypes without a kernel.
template <typename F>
Status for_planes(const PoolProblem& p, DType dtype, const F& run) {
  const auto all = [&](auto t) { parallel_for(p.n * p.c, [&](int64_t i) { run(t, i / p.c, i % p.c); }); };
  if (visit_floating(dtype, all) || visit_integral(dtype, all)) return kOk;
  return {"pooling has no kernel for this dtype"};
}

}  // namespace

Status pool_select(const PoolProblem& p, const TensorView& x, const TensorView& offsets, const TensorView& y) {
  return for_planes(p, x.dtype, [&](auto t, int64_t n, int64_t c) {
    select_plane<typename decltype(t)::type>(p, x, offsets, y, n, c);
  });
}

Status pool_select_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  return for_planes(p, dy.dtype, [&](auto t, int64_t n, int64_t c) {
    scatter_plane<typename decltype(t)::type>(p, dy, offsets, dx, n, c);
  });
}

Status pool_indices(const PoolProblem& p, const TensorView& offsets, const TensorView& indices) {
  parallel_for(p.n * p.c, [&](int64_t i) {
    const int64_t n = i / p.c, c = i % p.c;
    for_outputs(p.out, [&](int64_t o, int64_t q, int64_t r) {
      int64_t at[3];
      const bool inside = locate(p, o, q, r, load_offset(offsets, offset(offsets, n, c, o, q, r)), at);
      data<int64_t>(indices)[offset(indices, n, c, o, q, r)] =
          inside ? (at[0] * p.in[1] + at[1]) * p.in[2] + at[2] : int64_t{-1};
    });
  });
  return kOk;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
