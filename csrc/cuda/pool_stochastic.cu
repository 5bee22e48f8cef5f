// stochastic_pool, stochastic_mean and its gradient: draws from windows, and their expectation.
//
// Computes  y[o] = the first element whose cumulative sum exceeds u * sum, u = Philox(seed, logical index of o), and
//           its window offset;  y[o] = sum x^2 / sum x of the positive elements;  dx[i] = sum over the windows o that
//           read i of dy[o] (2 x[i] - y[o]) / sum(o) where x[i] is positive, else 0
// Layout    any strides; windows of planes without gaps come in bands (pool_bands.h)
// Mapping   a thread makes one element of the result, in the order of its memory. The gradient takes two launches: the
//           windows' sums, then one element of dx per thread.
// Memory    a window is read twice (its sum, then the draw; its largest element, then the sums), the second time from
//           L1. The seed is read on the device.
// Limits    floating dtypes; 2^31 elements of a result per image. core/stochastic_ops.h rounds every product and sum on
//           its own, in row-major order, so that draws and means have the bits of the CPU's.
#include "core/philox.h"
#include "core/stochastic_ops.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_bands.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

enum class Of { kDraw, kMean, kSum };

struct Windows {
  PoolAxes axes;
  PlaneView x, y, offsets;
  int64_t offset_bytes;
  const int64_t* seed;
};

// False if something is too wide for 32 bits.
bool windows_of(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                const int64_t* seed, Windows* g) {
  g->offset_bytes = offset_bytes(p);
  g->seed = seed;
  return narrow(p, &g->axes) && narrow(x, &g->x) && narrow(y, &g->y) && narrow(offsets, &g->offsets);
}

template <size_t kBytes>
struct BitsOf {
  using type = int32_t;
};
template <>
struct BitsOf<8> {
  using type = int64_t;
};

// Window `at`; position e of the plane is x[base + e].
template <Of kOf, typename R, typename T>
CONVKIT_DEVICE void make_window(const Windows& g, const T* x, int32_t base, int64_t n, int64_t c, const Window& at) {
  using A = accumulate_t<T>;
  using K = typename BitsOf<sizeof(A)>::type;
  const Box box = box_of(g.axes, at);
  const auto window = [&](const auto& f) {
    for_taps(g.axes, box, g.x.plane,
             [&](int32_t element, int32_t tap) { f(load(x + (base + element)), static_cast<K>(tap)); });
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

template <Of kOf, typename T, typename R>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) stochastic_windows(const Windows g, const Walk walk) {
  int64_t c;
  Window at;
  if (!walk.find(1, &c, &at)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y)
    make_window<kOf, R>(g, data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC], 0, n, c, at);
}

template <Of kOf, typename T, typename R>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) stochastic_bands(const Windows g, const Bands b) {
  const Band band = Band::find<false>(g.axes, b);
  const T* x = stage_run(data<T>(g.x) + band.start(g.x, b), band.count, shared_memory());
  await_runs();
  band.for_results<false>(g.axes, b, 1, [&](int64_t n, int64_t c, const Window& at, int32_t base) {
    make_window<kOf, R>(g, x, base, n, c, at);
  });
}

template <Of kOf, typename T, typename R>
Status over_windows(const Windows& g) {
  if (numel(g.y) == 0) return kOk;
  Bands b;
  if (cut_bands<false>(g.axes, g.x, g.y, 1, sizeof(T), &b))
    return launch(stochastic_bands<kOf, T, R>, grid_of(b, run_bytes(b.room, sizeof(T))), Windows(g), Bands(b));
  const char* refusal;
  const Walk walk = walk_over(g.y, 1, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(stochastic_windows<kOf, T, R>, grid_of(walk), Windows(g), Walk(walk));
}

struct Gradient {
  PoolAxes axes;
  PlaneView dy, x, y, sums, dx;
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
    for_windows(g.axes, at, [&](const Window& window, int32_t) {
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
  Windows g{};
  if (!windows_of(p, x, y, offsets, seed, &g)) return kTooWide;
  Status status = kFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = over_windows<Of::kDraw, T, T>(g);
  });
  return status;
}

Status stochastic_mean(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  Windows g{};
  if (!windows_of(p, x, y, TensorView{}, nullptr, &g)) return kTooWide;
  Status status = kFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = over_windows<Of::kMean, T, T>(g);
  });
  return status;
}

Status stochastic_mean_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& x, const TensorView& y,
                           const TensorView& sums, const TensorView& dx) {
  Windows windows{};
  if (!windows_of(p, x, sums, TensorView{}, nullptr, &windows)) return kTooWide;
  if (numel(dx) == 0) return kOk;
  Gradient g{};
  if (!narrow(dy, &g.dy) || !narrow(y, &g.y) || !narrow(dx, &g.dx)) return kTooWide;
  g.axes = windows.axes;
  g.x = windows.x;
  g.sums = windows.y;
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
