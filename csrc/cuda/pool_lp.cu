// lp_pool and lp_pool_bwd: the p-norm of each window, and its gradient.
//
// Computes  y[o] = (sum over taps of x^p)^(1/p) and dx[i] = x[i]^(p-1) * sum of dy[o] y[o]^(1-p) over the windows that
//           read i, in both semantics of core/lp_pool.h
// Layout    any strides; for the exponents 1, 2 and 3 packs of 16 bytes of channels that are neighbours
// Mapping   forwards that of pool_reduce.h, with powers on the way in and the root on the way out; backwards a thread
//           makes one element of dx, or one pack of channels, and visits the windows that read it in row-major order
// Memory    windows, dy and y are read through the cache. An exponent that is a tensor is read by every thread.
// Limits    floating dtypes; 2^31 elements of a result per image. norm: a window whose sum of powers leaves the range
//           in which nothing is lost is computed again by its definition, by its own thread.
#include "core/lp_pool.h"
#include "cuda/pool_kernels.h"
#include "cuda/pool_reduce.h"

namespace convkit::cuda {
namespace {

// The power as the host knows it: all of it, unless the exponent lies on the device.
template <typename T, bool kPowers>
struct Lp : AvgOp {
  static constexpr bool kAnyPower = kPowers;
  LpPower power;
  double size;  // of a window
  LpTerms<T, kPowers> terms;

  static Lp of(const PoolProblem& p, const LpPower& power) {
    Lp lp{};
    lp.power = power;
    lp.size = static_cast<double>(volume(p.kernel));
    if (power.exponent == nullptr) lp.terms = LpTerms<T, kPowers>::of(power, lp.size);
    return lp;
  }
  CONVKIT_DEVICE accumulate_t<T> enter(accumulate_t<T> x) const { return terms.enter(x); }
};

// Elements of a pack. Powers cost more than what packs save, and a pack would hold as many copies of their code.
template <typename T, typename Policy>
constexpr int kLpPack = Policy::kAnyPower ? 1 : kPackCount<T>;

template <typename T, bool kPowers>
CONVKIT_DEVICE Lp<T, kPowers> on_device(const Lp<T, kPowers>& given) {
  Lp<T, kPowers> lp = given;
  if (kPowers && lp.power.exponent != nullptr) lp.terms = LpTerms<T, kPowers>::of(lp.power, lp.size);
  return lp;
}

template <typename T, bool kPowers, typename A, typename Each>
CONVKIT_DEVICE A finished(const Lp<T, kPowers>& lp, A mean, const Each& each) {
  const LpTerms<T, kPowers>& terms = lp.terms;
  const A sum = mean * terms.window;
  if (!terms.norm || terms.degree == Degree::kOne || terms.safe(sum)) return terms.finish(sum);
  return lp_norm<A>(terms.p.value > 0, [&](A a) { return terms.enter(a); }, [&](A u) { return terms.finish(u); }, each);
}

// norm: the derivative of y in one element of its window. `slope` is |x|^(p-1), which all windows of x share; where a
// factor is too large or too small, the quotient goes first.
template <typename T, bool kPowers, typename A>
CONVKIT_DEVICE A norm_slope(const LpTerms<T, kPowers>& terms, A slope, A x, A y) {
  const A weight = terms.weigh(1, y), product = weight * slope;
  using Limits = std::numeric_limits<A>;
  const bool exact = terms.safe(weight) && terms.safe(slope) && product >= Limits::min() && product <= Limits::max();
  if (exact && x != 0) return x < 0 ? -product : product;
  return lp_norm_slope_by([&](A ratio) { return terms.slope_at(ratio); }, x, y);
}

struct Gradient {
  PoolAxes axes;
  PlaneView dy, x, y, dx;
};

template <typename T, bool kPowers, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks)
    lp_gather(const Gradient g, const Walk walk, const Lp<T, kPowers> given) {
  using A = accumulate_t<T>;
  int64_t c;
  Window at;
  if (!walk.find(kCount, &c, &at)) return;
  const LpTerms<T, kPowers> terms = on_device(given).terms;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const auto pack = load_pack<T, kCount>(data<T>(g.x) + offset(g.x, n, c, at));
    A x[kCount], slope[kCount], sum[kCount] = {};
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      x[j] = load(&pack.v[j]);
      slope[j] = terms.slope_at(terms.norm && x[j] < 0 ? -x[j] : x[j]);
    }
    for_windows(g.axes, at, [&](const Window& window, int32_t) {
      const auto dy = load_pack<T, kCount>(data<T>(g.dy) + offset(g.dy, n, c, window));
      const auto y = load_pack<T, kCount>(data<T>(g.y) + offset(g.y, n, c, window));
      const A divisor = divisor_of<A>(g.axes, window);
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const A gradient = load(&dy.v[j]), root = load(&y.v[j]);
        if (terms.norm)
          sum[j] += gradient * norm_slope(terms, slope[j], x[j], root);
        else
          sum[j] += terms.weigh(gradient, root) / divisor;
      }
    });
    Pack<T, kCount> result;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) store(&result.v[j], terms.norm ? sum[j] : sum[j] * slope[j]);
    store_pack(data<T>(g.dx) + offset(g.dx, n, c, at), result);
  }
}

template <typename T, bool kPowers, int kCount>
Status launch_gather(const Gradient& g, const Lp<T, kPowers>& lp) {
  const char* refusal;
  const Walk walk = walk_over(g.dx, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(lp_gather<T, kPowers, kCount>, grid_of(walk), Gradient(g), Walk(walk), Lp<T, kPowers>(lp));
}

// Calls f(Lp<T, kPowers>): an exponent that only the device knows can be any.
template <typename F>
Status visit_power(const PoolProblem& p, const LpPower& power, DType dtype, const F& f) {
  Status status = kFloatingOnly;
  visit_floating(dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const bool any = power.exponent != nullptr || degree_of(power.value) == Degree::kAny;
    status = any ? f(t, Lp<T, true>::of(p, power)) : f(t, Lp<T, false>::of(p, power));
  });
  return status;
}

// Windows with the divisors that Lp pooling counts by: a norm has none.
Status lp_axes(PoolProblem p, const LpPower& power, PoolAxes* axes) {
  if (p.adaptive) return {"lp_pool has no adaptive windows"};
  p.count_include_pad = true;
  p.divisor_override = power.norm ? 1 : 0;
  return narrow(p, axes) ? kOk : kTooWide;
}

}  // namespace

Status lp_pool(const PoolProblem& p, const LpPower& power, const TensorView& x, const TensorView& y) {
  Pool g{};
  if (!make_pool(p, x, y, TensorView{}, &g)) return kTooWide;
  const Status status = lp_axes(p, power, &g.axes);
  if (!status.ok() || numel(y) == 0) return status;
  return visit_power(p, power, x.dtype, [&](auto t, const auto& lp) {
    using T = typename decltype(t)::type;
    return reduce_windows<T, false, 1, kLpPack<T, std::decay_t<decltype(lp)>>>(g, lp);
  });
}

Status lp_pool_bwd(const PoolProblem& p, const LpPower& power, const TensorView& dy, const TensorView& x,
                   const TensorView& y, const TensorView& dx) {
  Gradient g{};
  if (!narrow(dy, &g.dy) || !narrow(x, &g.x) || !narrow(y, &g.y) || !narrow(dx, &g.dx)) return kTooWide;
  const Status status = lp_axes(p, power, &g.axes);
  if (!status.ok() || numel(dx) == 0) return status;
  return visit_power(p, power, dy.dtype, [&](auto t, const auto& lp) {
    using T = typename decltype(t)::type;
    using Policy = std::decay_t<decltype(lp)>;
    constexpr int kCount = kLpPack<T, Policy>;
    const bool packs = packs_fit(dy, kCount, sizeof(T)) && packs_fit(x, kCount, sizeof(T)) &&
                       packs_fit(y, kCount, sizeof(T)) && packs_fit(dx, kCount, sizeof(T));
    return packs ? launch_gather<T, Policy::kAnyPower, kCount>(g, lp) : launch_gather<T, Policy::kAnyPower, 1>(g, lp);
  });
}

}  // namespace convkit::cuda
