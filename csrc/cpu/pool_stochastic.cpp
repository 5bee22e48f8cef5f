// stochastic_pool: one element of each window, drawn with probabilities proportional to the elements; stochastic_mean:
// the expectation of that draw; stochastic_sum: what both divide by.
//
// Computes  y[o] = the first element whose cumulative sum exceeds u * sum, u = Philox(seed, logical index of o), and
//           its window offset (-1 where nothing is positive);  y[o] = sum x^2 / sum x;  y[o] = sum x, of positive x
// Layout    any
// Mapping   pool_windows.h
// Limits    floating dtypes. Compiled without contraction: a product and a sum round on their own everywhere.
#include "core/stochastic_ops.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_windows.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename M>
CONVKIT_INLINE bool any_lane(M mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
#elif defined(__SSE2__)
  return _mm_movemask_epi8((__m128i)mask) != 0;
#else
  bool any = false;
  for (size_t i = 0; i < sizeof(M) / sizeof(mask[0]); ++i) any = any || mask[i] != 0;
  return any;
#endif
}

struct Choose {
  static constexpr bool kChooses = true;
  PhiloxKeys keys;

  // Lanes of which each is empty, or reaches its threshold: stochastic_search needs fewer steps.
  template <typename V, typename K, typename Window>
  static CONVKIT_INLINE void search_ordinary(const Window& window, V threshold, V& y, K& chosen) {
    V cumulative{};
    auto searching = cumulative <= V{};
    y = V{};
    chosen = K{};
    window([&](V x, K tap) CONVKIT_INLINE_LAMBDA {
      const V w = stochastic_weight(x);
      y = searching ? w : y;
      chosen = searching ? tap : chosen;
      cumulative = cumulative + w;
      searching = cumulative <= threshold;
    });
    y = searching ? V{} : y;
    chosen = searching ? K{} - 1 : chosen;
  }

  template <typename A, typename Window>
  CONVKIT_INLINE void run(const Window& window, Vec<A> draw, Vec<A>& y, Vec<tap_t<A>>& chosen) const {
    using V = Vec<A>;
    const V sum = stochastic_sum<V>(window);
    const V threshold = stochastic_threshold<A>(draw, sum);
    if (__builtin_expect(any_lane(~((threshold < sum) | (sum == V{}))), false))
      stochastic_search(window, threshold, y, chosen);
    else
      search_ordinary(window, threshold, y, chosen);
  }
  template <typename A, typename Window>
  CONVKIT_INLINE void run(const Window& window, A draw, A& y, tap_t<A>& chosen) const {
    const A sum = stochastic_sum<A>(window);
    stochastic_search(window, stochastic_threshold<A>(draw, sum), y, chosen);
  }
};

struct Expect {
  static constexpr bool kChooses = false;
  template <typename A, typename V, typename K, typename Window>
  CONVKIT_INLINE void run(const Window& window, V, V& y, K&) const {
    y = stochastic_expectation<A, V, K>(window);
  }
};

struct Sum {
  static constexpr bool kChooses = false;
  template <typename A, typename V, typename K, typename Window>
  CONVKIT_INLINE void run(const Window& window, V, V& y, K&) const {
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
    return pool_windows<T, T>(p, x, y, offsets, Choose{philox_keys(static_cast<uint64_t>(*seed))});
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
