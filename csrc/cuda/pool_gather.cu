// pool_gather: the adjoints of pooling, each element of dx written once, without atomics or a pass of zeros.
//
// Computes  avg_pool_bwd     dx[i] = sum over the windows o that read i of dy[o] / divisor(o)
//           pool_select_bwd  dx[i] = sum over the windows o whose offset names i of dy[o]
// Layout    any strides; packs of 16 bytes of channels that are neighbours, bands of planes without gaps
// Mapping   a thread makes one element of dx, or one pack of channels, in the order of dx's memory, and visits the
//           windows that read it in row-major order
// Memory    dy and offsets are read about kernel / stride times each, through the cache or from shared memory
//           (pool_bands.h)
// Limits    floating dtypes; 2^31 elements of dx per image, and of dy per plane
#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_bands.h"
#include "cuda/pool_kernels.h"
#include "cuda/pool_offsets.h"

namespace convkit::cuda {
namespace {

struct Adjoint {
  PoolAxes axes;
  PlaneView dy, offsets, dx;
  int64_t offset_bytes;
};

// Calls f(window, tap, divisor) for the windows that read element `at`.
template <bool kSelect, typename A, typename F>
CONVKIT_DEVICE void for_shares(const PoolAxes& p, const Window& at, const F& f) {
  const auto taps = [&](const WindowAxis<int32_t>& axis, int32_t o) {
    return kSelect || p.divisor_override != 0 ? A(1) : static_cast<A>(divisor_taps(axis, p.count_include_pad, o));
  };
  for_readers(p.d, at.d, [&](int32_t o, int32_t a) {
    const A divisor_d = kSelect || p.divisor_override == 0 ? taps(p.d, o) : static_cast<A>(p.divisor_override);
    for_readers(p.h, at.h, [&](int32_t q, int32_t b) {
      const A divisor_h = divisor_d * taps(p.h, q);
      for_readers(p.w, at.w, [&](int32_t r, int32_t s) {
        f(Window{o, q, r}, kSelect ? p.number(a, b, s) : 0, divisor_h * taps(p.w, r));
      });
    });
  });
}

template <typename T, bool kSelect, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_gather(const Adjoint g, const Walk walk) {
  using A = accumulate_t<T>;
  int64_t c;
  Window at;
  if (!walk.find(kCount, &c, &at)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    A sum[kCount] = {};
    for_shares<kSelect, A>(g.axes, at, [&](const Window& window, int32_t tap, A divisor) {
      const auto pack = load_pack<T, kCount>(data<T>(g.dy) + offset(g.dy, n, c, window));
      int32_t chosen[kCount] = {};
      if constexpr (kSelect) load_offsets<kCount>(g.offsets, offset(g.offsets, n, c, window), g.offset_bytes, chosen);
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) {
        if (!kSelect)
          sum[j] += load(&pack.v[j]) / divisor;
        else if (chosen[j] == tap)
          sum[j] += load(&pack.v[j]);
      }
    });
    Pack<T, kCount> result;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) store(&result.v[j], sum[j]);
    store_pack(data<T>(g.dx) + offset(g.dx, n, c, at), result);
  }
}

// The same of planes without gaps: dy and offsets of the windows that a band of dx meets lie in shared memory.
template <typename T, bool kSelect, typename Offset>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_gather_bands(const Adjoint g, const Bands b) {
  using A = accumulate_t<T>;
  char* shared = static_cast<char*>(shared_memory());
  const Band band = Band::find<true>(g.axes, b);
  const T* dy = stage_run(data<T>(g.dy) + band.start(g.dy, b), band.count, shared);
  const Offset* offsets = nullptr;
  if constexpr (kSelect)
    offsets = stage_run(data<Offset>(g.offsets) + band.start(g.offsets, b), band.count,
                        shared + run_bytes(b.room, sizeof(T)));
  await_runs();
  band.for_results<true>(g.axes, b, 1, [&](int64_t n, int64_t c, const Window& at, int32_t base) {
    A sum = 0;
    for_shares<kSelect, A>(g.axes, at, [&](const Window& window, int32_t tap, A divisor) {
      const int32_t from = base + g.dy.plane.at(window);
      if (!kSelect)
        sum += load(dy + from) / divisor;
      else if (offsets[from] == static_cast<Offset>(tap))
        sum += load(dy + from);
    });
    store(data<T>(g.dx) + offset(g.dx, n, c, at), sum);
  });
}

template <typename T, bool kSelect, int kCount>
Status run_packs(const Adjoint& g) {
  const char* refusal;
  const Walk walk = walk_over(g.dx, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(pool_gather<T, kSelect, kCount>, grid_of(walk), Adjoint(g), Walk(walk));
}

template <typename T, bool kSelect, typename Offset>
Status run_bands(const Adjoint& g, const Bands& b) {
  const size_t bytes = run_bytes(b.room, sizeof(T)) + (kSelect ? run_bytes(b.room, sizeof(Offset)) : 0);
  return launch(pool_gather_bands<T, kSelect, Offset>, grid_of(b, bytes), Adjoint(g), Bands(b));
}

template <bool kSelect>
Status run(const Adjoint& g) {
  if (numel(g.dx) == 0) return kOk;
  Status status = kFloatingOnly;
  visit_floating(g.dy.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(g.dy, kCount, sizeof(T)) && packs_fit(g.dx, kCount, sizeof(T)) &&
                       (!kSelect || packs_fit(g.offsets, kCount, g.offset_bytes));
    const int64_t staged = static_cast<int64_t>(sizeof(T)) + (kSelect ? g.offset_bytes : 0);
    Bands b;
    if (packs)
      status = run_packs<T, kSelect, kCount>(g);
    else if (!cut_bands<true>(g.axes, g.dy, g.dx, 1, staged, &b) || (kSelect && !planes_alike(g.dy, g.offsets)))
      status = run_packs<T, kSelect, 1>(g);
    else if (!kSelect || g.offset_bytes == 1)
      status = run_bands<T, kSelect, uint8_t>(g, b);
    else if (g.offset_bytes == 2)
      status = run_bands<T, kSelect, int16_t>(g, b);
    else
      status = run_bands<T, kSelect, int32_t>(g, b);
  });
  return status;
}

}  // namespace

Status avg_pool_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& dx) {
  Adjoint g{};
  return narrow(p, &g.axes) && narrow(dy, &g.dy) && narrow(dx, &g.dx) ? run<false>(g) : kTooWide;
}

Status pool_select_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  Adjoint g{};
  g.offset_bytes = offset_bytes(p);
  return narrow(p, &g.axes) && narrow(dy, &g.dy) && narrow(offsets, &g.offsets) && narrow(dx, &g.dx) ? run<true>(g)
                                                                                                     : kTooWide;
}

}  // namespace convkit::cuda
