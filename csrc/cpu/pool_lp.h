// What an Lp pooling's windows do with their elements: the policies of the pooling templates.
//
// Computes  forward   enter x -> x^p (norm: |x|^p), reduce by adding, finish u -> u^(1/p)
//           backward  dx = x^(p-1) sum of dy y^(1-p) over the windows that read x: `weigh` makes the terms of dy
//                     and y, `apply` multiplies their sum by what x adds
// Limits    norm beyond the range in which powers neither overflow nor vanish: `review` computes such windows again by
//           their definition; backward, `done` tells that the whole gradient must be.
#pragma once

#include "core/lp_pool.h"
#include "cpu/pool_power.h"
#include "cpu/pool_tasks.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// All a task needs to know of the power, in the type of its sums.
template <typename T>
struct LpNumbers {
  using A = pool_accumulate_t<T>;
  Exponent<A> p, root, slope, weight;  // p, 1 / p, p - 1, 1 - p
  A window;                            // torch: the window's size, that a mean becomes a sum again
  A overflow;                          // torch: sums from here on are infinite in T, where PyTorch stores them
  A dead;                              // torch: the result, besides 0, of a sum of 0
  A least, most;                       // norm: results within are right
  tap_t<A> sign_mask;                  // norm: takes the sign off
  bool norm;

  static LpNumbers of(const PoolProblem& problem, const LpPower& power) {
    const double exact = lp_exponent(power);
    const A p = static_cast<A>(exact), inf = std::numeric_limits<A>::infinity();
    const double root = 1 / exact, rest = __builtin_fma(-root, exact, 1.0) / exact;
    LpNumbers n{};
    n.p = Exponent<A>::of(exact);
    n.root = Exponent<A>::of(root, rest == rest ? rest : 0);
    n.slope = Exponent<A>::of(exact - 1);
    n.weight = Exponent<A>::of(1 - exact);
    n.window = 1;
    n.overflow = n.most = inf;
    n.least = -inf;
    n.sign_mask = -1;
    n.norm = power.norm;
    if (power.norm) {
      const A a = raise(SafeRange<A>::least, 1 / p), b = raise(SafeRange<A>::most, 1 / p);
      n.least = a < b ? a : b;
      n.most = a < b ? b : a;
      if (!(n.least < n.most)) n.least = inf;  // an infinite exponent: nothing is right
      n.sign_mask = std::numeric_limits<tap_t<A>>::max();
    } else {
      n.window = static_cast<A>(volume(problem.kernel));
      n.dead = exact < 0 ? inf : A{0};
      n.overflow = overflowing_sum<T>();
    }
    return n;
  }
};

template <typename V, typename I>
CONVKIT_INLINE V masked(V v, I mask) {
  using Bits = typename Simd<I, sizeof(V) / sizeof(I)>::type;
  return (V)((Bits)v & mask);
}

// Whether any lane of a comparison's result is set.
template <typename M>
CONVKIT_INLINE bool any(M m) {
  int64_t words[sizeof(M) / 8], all = 0;
  __builtin_memcpy(words, &m, sizeof(m));
  for (int64_t word : words) all |= word;
  return all != 0;
}

template <typename T, Degree kDegree>
struct LpForward {
  using A = pool_accumulate_t<T>;
  using V = Vec<A>;
  static constexpr int64_t kLanes = Lanes<A>::count;
  static constexpr bool kDivides = true, kEntersOnce = kDegree == Degree::kAny;

  LpNumbers<T> numbers;

  template <typename>
  static CONVKIT_INLINE constexpr A identity() {
    return A{0};
  }
  template <typename E>
  static CONVKIT_INLINE void reduce(E& sum, E v) {
    sum = sum + v;
  }
  CONVKIT_INLINE V enter(V x) const {
    if constexpr (kDegree == Degree::kTwo) return x * x;
    const V v = masked(x, numbers.sign_mask);
    if constexpr (kDegree == Degree::kOne) return v;
    if constexpr (kDegree == Degree::kThree) return v * v * v;
    return power(v, numbers.p);
  }
  CONVKIT_INLINE V finish(V mean) const {
    V u = mean * numbers.window + A{0};  // PyTorch's roots are of 0, never of minus 0
    const A inf = std::numeric_limits<A>::infinity();
    if constexpr (sizeof(T) == 2) {
      u = u >= numbers.overflow ? splat<A>(inf) : u;
      u = u <= -numbers.overflow ? splat<A>(-inf) : u;
    }
    if constexpr (kDegree == Degree::kOne) return u;
    if constexpr (kDegree == Degree::kTwo) return square_root(u);
    return power(u, numbers.root);
  }
  static CONVKIT_INLINE void done() {}

  // One channel: windows r to r + columns of a row.
  void review(const PoolProblem& p, const TensorView& x, const TensorView& y, int64_t n, int64_t c, Spatial window,
              int64_t columns) const {
    if (!numbers.norm || kDegree == Degree::kOne) return;
    T* row = data<T>(y) + offset(y, n, c, window[0], window[1], window[2]);
    const int64_t step = y.stride[kW];
    if (unit_stride(y, kW) && all_safe(row, columns)) return;
    for (int64_t i = 0; i < columns; ++i, ++window[2])
      if (!safe(row + i * step)) again(p, x, n, c, window, row + i * step);
  }
  // A row of all channels, which are neighbours.
  void review(const PoolProblem& p, const TensorView& x, const TensorView& y, int64_t n, int64_t o, int64_t q) const {
    if (!numbers.norm || kDegree == Degree::kOne) return;
    for (int64_t r = 0; r < p.out[2]; ++r) {
      T* pixel = data<T>(y) + offset(y, n, 0, o, q, r);
      if (all_safe(pixel, p.c)) continue;
      for (int64_t c = 0; c < p.c; ++c)
        if (!safe(pixel + c)) again(p, x, n, c, Spatial{{o, q, r}}, pixel + c);
    }
  }

 private:
  CONVKIT_INLINE bool safe(const T* y) const {
    const A v = load_one(y);
    return v >= numbers.least && v <= numbers.most;
  }
  CONVKIT_INLINE bool all_safe(const T* y, int64_t count) const {
    const V least = splat<A>(numbers.least), most = splat<A>(numbers.most);
    auto unsafe = least != least;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const V v = load_vec(y + i);
      unsafe |= ~((v >= least) & (v <= most));
    }
    for (; i < count; ++i)
      if (!safe(y + i)) return false;
    return !any(unsafe);
  }
  void again(const PoolProblem& p, const TensorView& x, int64_t n, int64_t c, const Spatial& window, T* y) const {
    const TapRange d = tap_range(p, 0, window[0]), h = tap_range(p, 1, window[1]), w = tap_range(p, 2, window[2]);
    const auto each = [&](auto&& f) CONVKIT_INLINE_LAMBDA {
      for (int64_t td = d.begin; td < d.end; ++td)
        for (int64_t th = h.begin; th < h.end; ++th)
          for (int64_t tw = w.begin; tw < w.end; ++tw)
            f(load_one(data<T>(x) + offset(x, n, c, d.start + td * p.dilation[0], h.start + th * p.dilation[1],
                                           w.start + tw * p.dilation[2])));
    };
    store_one(y, lp_norm<A>(static_cast<A>(numbers.p.value), each));
  }
};

template <typename T, Degree kDegree>
struct LpBackward {
  using A = pool_accumulate_t<T>;
  using V = Vec<A>;
  using M = decltype(V{} != V{});
  static constexpr bool kSelect = false, kWeighs = true;

  LpNumbers<T> numbers;
  const TensorView* x;
  Failure* unsafe;
  M seen{};  // lanes that left the safe range

  // torch: dy times the derivative of the root, up to 1 / p; norm: the same, and whether its size is safe.
  CONVKIT_INLINE V weigh(V dy, V y) {
    V v;
    if constexpr (kDegree == Degree::kOne) v = dy;
    if constexpr (kDegree == Degree::kTwo) v = dy / y;
    if constexpr (kDegree == Degree::kThree) v = dy / (y * y);
    if constexpr (kDegree == Degree::kAny) v = dy * power(y, numbers.weight);
    const auto zero = (y == A{0}) | (y == numbers.dead);
    if constexpr (kDegree != Degree::kOne)
      if (numbers.norm) {
        const V size = masked(v, std::numeric_limits<tap_t<A>>::max());
        const auto safe = (size >= SafeRange<A>::least) & (size <= SafeRange<A>::most);
        seen |= ~safe & (dy != A{0}) & ~zero;
      }
    return zero ? V{} : v * numbers.window;
  }
  CONVKIT_INLINE V apply(V sum, V element) const {
    if constexpr (kDegree == Degree::kTwo) return sum * element;
    const V a = masked(element, numbers.sign_mask);
    V slope{};
    if constexpr (kDegree == Degree::kOne) slope = V{} + A{1};
    if constexpr (kDegree == Degree::kThree) slope = a * a;
    if constexpr (kDegree == Degree::kAny) slope = power(a, numbers.slope);
    if (!numbers.norm) return sum * slope;
    slope = element < A{0} ? -slope : slope;
    return element == A{0} ? V{} : sum * slope;
  }
  CONVKIT_INLINE void done() const {
    if (any(seen)) unsafe->raise();
  }
};

// Calls f(Constant<degree>{}).
template <Degree kDegree>
struct Constant {
  static constexpr Degree value = kDegree;
};
template <typename F>
CONVKIT_INLINE Status visit_degree(const LpPower& power, const F& f) {
  const Degree degree = degree_of(lp_exponent(power));
  if (degree == Degree::kOne) return f(Constant<Degree::kOne>{});
  if (degree == Degree::kTwo) return f(Constant<Degree::kTwo>{});
  if (degree == Degree::kThree) return f(Constant<Degree::kThree>{});
  return f(Constant<Degree::kAny>{});
}

// The problem that the templates' divisors are right for: a norm has none.
CONVKIT_INLINE PoolProblem lp_problem(PoolProblem p, const LpPower& power) {
  p.count_include_pad = true;
  p.divisor_override = power.norm ? 1 : 0;
  return p;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
