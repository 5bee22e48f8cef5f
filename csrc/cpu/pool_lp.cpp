// lp_pool: the p-norm of each window.
//
// Computes  y[o] = (sum over taps of x^p)^(1/p), as core/lp_pool.h says
// Mapping   as max_pool, in one pass over x: powers on the way in, the root on the way out. Where channels_last windows
//           overlap and a power is costly, a band of rows is raised into scratch memory first, each element once.
// Limits    floating dtypes; any exponent but 0
#include "cpu/pool_lp.h"

#include "cpu/pool_channels.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_lp_bands.h"
#include "cpu/pool_plane.h"
#include "cpu/pool_rows.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Windows over elements that have been raised already; `source` holds them as they were.
template <typename T>
struct RaisedOp : AvgOp {
  LpForward<T, Degree::kAny> lp;
  const TensorView* source;

  template <typename V>
  CONVKIT_INLINE V finish(V mean) const {
    return lp.finish(mean);
  }
  CONVKIT_INLINE void review(const PoolProblem& p, const TensorView&, const TensorView& y, int64_t n, int64_t o,
                             int64_t q) const {
    lp.review(p, *source, y, n, o, q);
  }
};

// dst[i] = the power of src[i]; a row of pixels of all channels.
template <typename T>
CONVKIT_INLINE void raise_row(const LpForward<T, Degree::kAny>& lp, const T* src, int64_t n, T* dst) {
  constexpr int64_t lanes = Lanes<T>::count;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store_vec(dst + i, lp.enter(load_vec(src + i)));
  if (i < n) store_part(dst + i, lp.enter(load_part(src + i, n - i)), n - i);
}

template <typename T>
Status pool_raised_bands(const PoolProblem& p, const LpForward<T, Degree::kAny>& lp, const TensorView& x,
                         const TensorView& y) {
  const RowBands bands = row_bands(p.out[1], p.stride[1], p.in[2] * p.c * static_cast<int64_t>(sizeof(T)));
  const TensorView none{};
  const RaisedOp<T> policy{{}, lp, &x};
  Failure failure;
  for_units(p.n * bands.count, bands.rows * p.stride[1] * p.in[2] * p.c, [&](int64_t begin, int64_t end) {
    const int64_t reach = (p.kernel[1] - 1) * p.dilation[1], row = p.in[2] * p.c;
    const int64_t most = lesser(p.in[1], (bands.rows - 1) * p.stride[1] + reach + 1);
    T* band = static_cast<T*>(thread_scratch(1, static_cast<size_t>(most * row) * sizeof(T)));
    if (band == nullptr) return failure.raise();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / bands.count, q0 = unit % bands.count * bands.rows,
                    q1 = lesser(p.out[1], q0 + bands.rows);
      const int64_t first = greater(0, q0 * p.stride[1] - p.pad_before[1]);
      const int64_t last = lesser(p.in[1], (q1 - 1) * p.stride[1] - p.pad_before[1] + reach + 1);
      for (int64_t h = first; h < last; ++h)
        for (int64_t w = 0; w < p.in[2]; ++w)
          raise_row(lp, data<T>(x) + offset(x, n, 0, 0, h, w), p.c, band + (h - first) * row + w * p.c);
      const TensorView raised = rows_view(x, band, first, p.in[2], p.c);
      ChannelPool<RaisedOp<T>, T, false> pool{p, raised, y, none, policy};
      for (int64_t q = q0; q < q1; ++q) pool.row(n, 0, q);
    }
  });
  return failure.status();
}

}  // namespace

Status lp_pool(const PoolProblem& problem, const LpPower& power, const TensorView& x, const TensorView& y) {
  const PoolProblem p = lp_problem(problem, power);
  Status status{"lp_pool has no kernel for this dtype"};
  if (p.adaptive) return {"lp_pool has no adaptive windows"};
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = visit_degree(power, [&](auto degree) {
      using Policy = LpForward<T, decltype(degree)::value>;
      const Policy policy{LpNumbers<T>::of(p, power)};
      const TensorView none{};
      if (channels_apply<Policy, T, false>(x, y, none)) {
        if constexpr (decltype(degree)::value == Degree::kAny && sizeof(T) == sizeof(pool_accumulate_t<T>))
          if (bands_pay(p)) return pool_raised_bands<T>(p, policy, x, y);
        return pool_channels<Policy, T, false>(p, x, y, none, policy);
      }
      if (plane_applies(p, x)) return pool_plane<Policy, T, false>(p, x, y, none, policy);
      return pool_rows<Policy, T, false>(p, x, y, none, policy);
    });
  });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
