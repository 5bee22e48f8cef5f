// avg_pool and its adjoint: pools that reduce each window to one value.
//
// Computes  y[o] = sum over taps of x / divisor(o);  dx[i] = sum over the windows o that read i of dy[o] / divisor(o)
// Mapping   one task per (image, channel) plane.
#include "cpu/kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

CONVKIT_INLINE int64_t divisor(const PoolProblem& p, int64_t o, int64_t q, int64_t r) {
  if (p.divisor_override != 0) return p.divisor_override;
  const int64_t at[3] = {o, q, r};
  int64_t count = 1;
  for (int i = 0; i < 3; ++i) {
    const TapRange t = tap_range(p, i, at[i]);
    count *= p.count_include_pad ? padded_taps(p, i, at[i]) : t.end - t.begin;
  }
  return count > 0 ? count : 1;  // the sum of an empty window is 0
}

template <typename T>
void backward_plane(const PoolProblem& p, const TensorView& dy, const TensorView& dx, int64_t n, int64_t c) {
  for (int64_t d = 0; d < p.in[0]; ++d)
    for (int64_t h = 0; h < p.in[1]; ++h)
      for (int64_t w = 0; w < p.in[2]; ++w) {
        const int64_t in[3] = {d, h, w};
        int64_t begin[3], end[3];
        for (int i = 0; i < 3; ++i) covering_windows(p, i, in[i], &begin[i], &end[i]);
        const auto reads = [&](int dim, int64_t o) {
          return (in[dim] - (o * p.stride[dim] - p.pad_before[dim])) % p.dilation[dim] == 0;
        };
        accumulate_t<T> sum{};
        for (int64_t o = begin[0]; o < end[0]; ++o)
          for (int64_t q = begin[1]; q < end[1]; ++q)
            for (int64_t r = begin[2]; r < end[2]; ++r)
              if (reads(0, o) && reads(1, q) && reads(2, r))
                sum = static_cast<accumulate_t<T>>(sum + load(data<T>(dy) + offset(dy, n, c, o, q, r)) /
                                                             static_cast<accumulate_t<T>>(divisor(p, o, q, r)));
        store(data<T>(dx) + offset(dx, n, c, d, h, w), sum);
      }
}

template <typename F>
Status for_planes(const PoolProblem& p, DType dtype, const F& run) {
  const auto all = [&](auto t) { parallel_for(p.n * p.c, [&](int64_t i) { run(t, i / p.c, i % p.c); }); };
  if (visit_floating(dtype, all)) return kOk;
  if (dtype == DType::kInt64) return all(Type<int64_t>{}), kOk;
  return {"avg_pool has no kernel for this dtype"};
}

}  // namespace

Status avg_pool_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& dx) {
  return for_planes(p, dy.dtype, [&](auto t, int64_t n, int64_t c) {
    backward_plane<typename decltype(t)::type>(p, dy, dx, n, c);
  });
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
