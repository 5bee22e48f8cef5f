// stochastic_pool: one element of each window, drawn with probabilities proportional to the elements; stochastic_mean:
// the expectation of that draw; stochastic_sum: what both divide by.
//
// Computes  y[o] = the first element whose cumulative sum exceeds u * sum, u = Philox(seed, logical index of o), and
//           its window offset (-1 where nothing is positive);  y[o] = sum x^2 / sum x;  y[o] = sum x, of positive x
// Layout    any
// Mapping   pool_windows.h
// Limits    floating dtypes. Compiled without contraction: a product and a sum round on their own everywhere.
#include "core/stochastic_ops.h"
#include "cpu/kernels.h"
#include "cpu/pool_windows.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

struct Choose {
  static constexpr bool kChooses = true;
  uint64_t seed;

  template <typename A>
  static CONVKIT_INLINE Vec<A> uniform(const LaneIndex<A>& index, uint64_t seed) {
    return lane_uniform<A>(index, seed);
  }
  template <typename A>
  static CONVKIT_INLINE A uniform(uint64_t index, uint64_t seed) {
    return philox_uniform(index, seed);
  }
  template <typename A, typename V, typename K, typename Window, typename Index>
  CONVKIT_INLINE void run(const Window& window, const Index& index, V& y, K& chosen) const {
    stochastic_choice<A>(window, [&]() CONVKIT_INLINE_LAMBDA { return uniform<A>(index(), seed); }, y, chosen);
  }
};

struct Expect {
  static constexpr bool kChooses = false;
  template <typename A, typename V, typename K, typename Window, typename Index>
  CONVKIT_INLINE void run(const Window& window, const Index&, V& y, K&) const {
    y = stochastic_expectation<A, V, K>(window);
  }
};

struct Sum {
  static constexpr bool kChooses = false;
  template <typename A, typename V, typename K, typename Window, typename Index>
  CONVKIT_INLINE void run(const Window& window, const Index&, V& y, K&) const {
    y = stochastic_sum<V>(window);
  }
};

template <typename F>
CONVKIT_INLINE Status visit_stochastic(DType dtype, const F& run) {
  Status status = kOk;
  if (visit_floating(dtype, [&](auto t) { status = run(t); })) return status;
  return {"stochastic pooling has no kernel for this dtype"};
}

}  // namespace

Status stochastic_pool(const PoolProblem& p, const TensorView& x, const int64_t* seed, const TensorView& y,
                       const TensorView& offsets) {
  return visit_stochastic(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    return pool_windows<T, T>(p, x, y, offsets, Choose{static_cast<uint64_t>(*seed)});
  });
}

Status stochastic_mean(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  return visit_stochastic(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    return pool_windows<T, T>(p, x, y, TensorView{}, Expect{});
  });
}

Status stochastic_sum(const PoolProblem& p, const TensorView& x, const TensorView& sums) {
  return visit_stochastic(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    return pool_windows<T, pool_accumulate_t<T>>(p, x, sums, TensorView{}, Sum{});
  });
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
