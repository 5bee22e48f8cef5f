// lp_pool_bwd: the gradient of lp_pool in its input.
//
// Computes  dx[i] = x[i]^(p-1) * sum over the windows o that read i of dy[o] y[o]^(1-p)   (torch: K / count as in y)
//           norm: sign(x[i]) * sum of dy[o] (|x[i]| / y[o])^(p-1)
// Mapping   the gather of avg_pool_bwd, with weights (in bands of rows, as lp_pool raises); norm beyond the safe range:
//           one element of dx at a time, ratios first
// Limits    floating dtypes; dx of an element whose windows' results are all 0 is 0
#include "cpu/pool_channels.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_lp.h"
#include "cpu/pool_lp_bands.h"
#include "cpu/pool_plane.h"
#include "cpu/pool_rows_bwd.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// The gather of windows that have been weighed already.
template <typename T>
struct WeighedBwd : PlainOp {
  static constexpr bool kSelect = false, kWeighs = true;
  LpBackward<T, Degree::kAny> lp;
  const TensorView* x;

  template <typename V>
  static CONVKIT_INLINE V weigh(V dy, V) {
    return dy;
  }
  template <typename V>
  CONVKIT_INLINE V apply(V sum, V element) const {
    return lp.apply(sum, element);
  }
};

template <typename T>
Status gather_weighed_bands(const PoolProblem& p, LpBackward<T, Degree::kAny> lp, const TensorView& dy,
                            const TensorView& y, const TensorView& dx) {
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t row = p.out[2] * p.c;
  const RowBands bands = row_bands(p.in[1], 1, row * static_cast<int64_t>(sizeof(T)));
  const WeighedBwd<T> policy{{}, lp, lp.x};
  Failure failure;
  for_units(p.n * bands.count, bands.rows * p.in[2] * p.c, [&](int64_t begin, int64_t end) {
    LpBackward<T, Degree::kAny> weigher = lp;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / bands.count, h0 = unit % bands.count * bands.rows, h1 = lesser(p.in[1], h0 + bands.rows);
      int64_t first, last, unused;
      covering_windows(p, 1, h0, &first, &unused);
      covering_windows(p, 1, h1 - 1, &unused, &last);
      T* band = static_cast<T*>(thread_scratch(1, static_cast<size_t>(greater(1, last - first) * row) * sizeof(T)));
      if (band == nullptr) return failure.raise();
      for (int64_t q = first; q < last; ++q)
        for (int64_t r = 0; r < p.out[2]; ++r) {
          const T *from = data<T>(dy) + offset(dy, n, 0, 0, q, r), *beside = data<T>(y) + offset(y, n, 0, 0, q, r);
          T* to = band + (q - first) * row + r * p.c;
          int64_t c = 0;
          for (; c + lanes <= p.c; c += lanes)
            store_vec(to + c, weigher.weigh(load_vec(from + c), load_vec(beside + c)));
          if (c < p.c)
            store_part(to + c, weigher.weigh(load_part(from + c, p.c - c), load_part(beside + c, p.c - c)), p.c - c);
        }
      const TensorView weighed = rows_view(dy, band, first, p.out[2], p.c);
      ChannelGather<WeighedBwd<T>, T> task{p, weighed, weighed, dx, policy, {}};
      if (!task.run(n * p.in[1] + h0, n * p.in[1] + h1)) return failure.raise();
    }
    weigher.done();
  });
  return failure.status();
}

template <typename T>
void gather_carefully(const PoolProblem& p, const LpPower& power, const TensorView& dy, const TensorView& x,
                      const TensorView& y, const TensorView& dx) {
  using A = pool_accumulate_t<T>;
  const A exponent = static_cast<A>(lp_exponent(power));
  const auto element = [&](int64_t n, int64_t c, const Spatial& at) {
    const A value = load_one(data<T>(x) + offset(x, n, c, at[0], at[1], at[2]));
    A sum = 0;
    for_readers(p, 0, at[0], [&](int64_t o, int64_t) {
      for_readers(p, 1, at[1], [&](int64_t q, int64_t) {
        for_readers(p, 2, at[2], [&](int64_t r, int64_t) {
          const A norm = load_one(data<T>(y) + offset(y, n, c, o, q, r));
          sum += lp_norm_slope(exponent, value, norm) * load_one(data<T>(dy) + offset(dy, n, c, o, q, r));
        });
      });
    });
    store_one(data<T>(dx) + offset(dx, n, c, at[0], at[1], at[2]), sum);
  };
  const int64_t plane_rows = p.in[0] * p.in[1];
  for_units(p.n * p.c * plane_rows, p.in[2], [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t plane = row / plane_rows;
      Spatial at{{row % plane_rows / p.in[1], row % p.in[1], 0}};
      for (; at[2] < p.in[2]; ++at[2]) element(plane / p.c, plane % p.c, at);
    }
  });
}

}  // namespace

Status lp_pool_bwd(const PoolProblem& problem, const LpPower& power, const TensorView& dy, const TensorView& x,
                   const TensorView& y, const TensorView& dx) {
  const PoolProblem p = lp_problem(problem, power);
  Status status{"lp_pool_bwd has no kernel for this dtype"};
  if (p.adaptive) return {"lp_pool_bwd has no adaptive windows"};
  visit_floating(dy.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int64_t lanes = Lanes<pool_accumulate_t<T>>::count;
    Failure unsafe;
    status = visit_degree(power, [&](auto degree) {
      using Policy = LpBackward<T, decltype(degree)::value>;
      const Policy policy{LpNumbers<T>::of(p, power), &x, &unsafe};
      if (channels_gather_apply<T, true>(dy, y, dx) && channel_vectors(x, lanes)) {
        if constexpr (decltype(degree)::value == Degree::kAny && sizeof(T) == sizeof(pool_accumulate_t<T>))
          if (bands_pay(p)) return gather_weighed_bands<T>(p, policy, dy, y, dx);
        return gather_channels<Policy, T>(p, dy, y, dx, policy);
      }
      if (plane_applies(p, dx) && plane_applies(p, x)) return spread_plane<Policy, T>(p, dy, y, dx, policy);
      return gather_rows<Policy, T>(p, dy, y, dx, policy);
    });
    if (status.ok() && unsafe.set != 0) gather_carefully<T>(p, power, dy, x, y, dx);
  });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
