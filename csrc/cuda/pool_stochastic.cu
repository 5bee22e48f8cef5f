// stochastic_pool, stochastic_mean and its gradient: draws from windows, and their expectation.
//
// Computes  y[o] = the first element whose cumulative sum exceeds u * sum, u = Philox(seed, logical index of o), and
//           its window offset;  y[o] = sum x^2 / sum x of the positive elements;  dx[i] = sum over the windows o that
//           read i of dy[o] (2 x[i] - y[o]) / sum(o) where x[i] is positive, else 0
// Layout    any strides
// Mapping   a thread makes one element of the result, in the order of its memory. The gradient takes two launches: the
//           windows' sums, then one element of dx per thread.
// Memory    a window is read twice (its sum, then the draw; its largest element, then the sums), the second time from
//           L1. The seed is read on the device.
// Limits    floating dtypes; 2^31 elements of a result per image. core/stochastic_ops.h rounds every product and sum on
//           its own, in row-major order, so that draws and means have the bits of the CPU's.
#include "core/philox.h"
#include "core/stochastic_ops.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

enum class Of { kDraw, kMean, kSum };

struct Windows {
  PoolAxes axes;
  TensorView x, y, offsets;
  int64_t offset_bytes;
  const int64_t* seed;
};

template <size_t kBytes>
struct BitsOf {
  using type = int32_t;
};
template <>
struct BitsOf<8> {
  using type = int64_t;
};

template <Of kOf, typename T, typename R>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) stochastic_windows(const Windows g, const Walk walk) {
  using A = accumulate_t<T>;
  using K = typename BitsOf<sizeof(A)>::type;
  int64_t c;
  Window at;
  if (!walk.find(1, &c, &at)) return;
  const Box box = box_of(g.axes, at);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* x = data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC];
    const auto window = [&](const auto& f) {
      for_taps(g.axes, box, g.x, [&](int64_t element, int32_t tap) { f(load(x + element), static_cast<K>(tap)); });
    };
    A y;
    if constexpr (kOf == Of::kMean) y = stochastic_expectation<A, A, K>(window);
    if constexpr (kOf == Of::kSum) y = stochastic_sum<A>(window);
    if constexpr (kOf == Of::kDraw) {
      const int64_t plane = n * g.y.size[kC] + c;
      const int64_t index = ((plane * g.axes.d.out + at.d) * g.axes.h.out + at.h) * g.axes.w.out + at.w;
      const PhiloxKeys keys = philox_keys(static_cast<uint64_t>(*g.seed));
      const A u = static_cast<A>(philox_uniform(static_cast<uint64_t>(index), keys));
      K chosen;
      stochastic_search(window, stochastic_threshold<A>(u, stochastic_sum<A>(window)), y, chosen);
      store_tap(g.offsets.data, offset(g.offsets, n, c, at), g.offset_bytes, chosen);
    }
    store(data<R>(g.y) + offset(g.y, n, c, at), y);
  }
}

template <Of kOf, typename T, typename R>
Status over_windows(const Windows& g) {
  if (numel(g.y) == 0) return kOk;
  const char* refusal;
  const Walk walk = walk_over(g.y, 1, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(stochastic_windows<kOf, T, R>, grid_of(walk), Windows(g), Walk(walk));
}

struct Gradient {
  PoolAxes axes;
  TensorView dy, x, y, sums, dx;
};

template <typename T>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) stochastic_gather(const Gradient g, const Walk walk) {
  using A = accumulate_t<T>;
  int64_t c;
  Window at;
  if (!walk.find(1, &c, &at)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const A x = load(data<T>(g.x) + offset(g.x, n, c, at));
    A sum = 0;
    for_windows(g.axes, at, [&](const Window& window) {
      sum += stochastic_share(load(data<T>(g.dy) + offset(g.dy, n, c, window)), x,
                              load(data<T>(g.y) + offset(g.y, n, c, window)),
                              data<A>(g.sums)[offset(g.sums, n, c, window)]);
    });
    store(data<T>(g.dx) + offset(g.dx, n, c, at), where_positive(x, sum));
  }
}

}  // namespace

Status stochastic_pool(const PoolProblem& p, const TensorView& x, const int64_t* seed, const TensorView& y,
                       const TensorView& offsets) {
  Windows g{{}, x, y, offsets, offset_bytes(p), seed};
  if (!narrow(p, &g.axes)) return kTooWide;
  Status status = kFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = over_windows<Of::kDraw, T, T>(g);
  });
  return status;
}

Status stochastic_mean(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  Windows g{{}, x, y, TensorView{}, 0, nullptr};
  if (!narrow(p, &g.axes)) return kTooWide;
  Status status = kFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = over_windows<Of::kMean, T, T>(g);
  });
  return status;
}

Status stochastic_mean_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& x, const TensorView& y,
                           const TensorView& sums, const TensorView& dx) {
  Windows windows{{}, x, sums, TensorView{}, 0, nullptr};
  if (!narrow(p, &windows.axes)) return kTooWide;
  if (numel(dx) == 0) return kOk;
  const Gradient g{windows.axes, dy, x, y, sums, dx};
  Status status = kFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = over_windows<Of::kSum, T, accumulate_t<T>>(windows);
    if (!status.ok()) return;
    const char* refusal;
    const Walk walk = walk_over(dx, 1, &refusal);
    status =
        refusal != nullptr ? Status{refusal} : launch(stochastic_gather<T>, grid_of(walk), Gradient(g), Walk(walk));
  });
  return status;
}

}  // namespace convkit::cuda
