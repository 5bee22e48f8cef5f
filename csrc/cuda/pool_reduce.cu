// pool_reduce: the largest element or the mean of each window, and the window offset of the largest.
//
// Computes  y[o] = policy over the taps of window o (core/pool_ops.h);  offsets[o] = the chosen tap
// Layout    any strides. Channels that are neighbours move in packs of 16 bytes (offsets in packs as wide).
// Mapping   a thread makes one element of y, or one pack of channels, in the order of y's memory; images along
// blockIdx.y Memory    windows are read through the cache, which serves what neighbouring windows share Limits floating
// dtypes; 2^31 elements of y per image
#include "core/pool_ops.h"
#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_kernels.h"
#include "cuda/walk.h"

namespace convkit::cuda {
namespace {

struct Pool {
  PoolAxes axes;
  TensorView x, y, offsets;
  int64_t offset_bytes;
};

template <typename Policy, typename T, bool kOffsets, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_reduce(const Pool g, const Walk walk) {
  using A = accumulate_t<T>;
  const PoolAxes& p = g.axes;
  int64_t c;
  Window window;
  if (!walk.find(kCount, &c, &window)) return;
  const Taps1d<int32_t> d = tap_range(p.d, window.d), h = tap_range(p.h, window.h), w = tap_range(p.w, window.w);
  A divisor = 1;
  if (Policy::kDivides)
    divisor = static_cast<A>(p.divisor_override) != A(0)
                  ? static_cast<A>(p.divisor_override)
                  : static_cast<A>(divisor_taps(p.d, p.count_include_pad, window.d)) *
                        static_cast<A>(divisor_taps(p.h, p.count_include_pad, window.h)) *
                        static_cast<A>(divisor_taps(p.w, p.count_include_pad, window.w));
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* first = data<T>(g.x) + n * g.x.stride[kN] + c * g.x.stride[kC] + w.start * g.x.stride[kW];
    A value[kCount];
    int32_t chosen[kCount];
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      value[j] = Policy::template identity<A>();
      chosen[j] = 0;
    }
    for (int32_t a = d.begin; a < d.end; ++a)
      for (int32_t b = h.begin; b < h.end; ++b) {
        const T* row =
            first + (d.start + a * p.d.dilation) * g.x.stride[kD] + (h.start + b * p.h.dilation) * g.x.stride[kH];
        for (int32_t s = w.begin; s < w.end; ++s) {
          const auto pack = load_pack<T, kCount>(row + s * p.w.dilation * g.x.stride[kW]);
          CONVKIT_UNROLL
          for (int j = 0; j < kCount; ++j) {
            const A v = load(&pack.v[j]);
            if constexpr (kOffsets)
              Policy::choose(value[j], chosen[j], v, p.number(a, b, s));
            else
              Policy::reduce(value[j], v);
          }
        }
      }
    Pack<T, kCount> result;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) store(&result.v[j], Policy::kDivides ? value[j] / divisor : value[j]);
    store_pack(data<T>(g.y) + offset(g.y, n, c, window.d, window.h, window.w), result);
    if constexpr (kOffsets) {
      const int64_t at = offset(g.offsets, n, c, window.d, window.h, window.w);
      if (kCount > 1 && g.offset_bytes == 1) {
        Pack<uint8_t, kCount> bytes;
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) bytes.v[j] = static_cast<uint8_t>(chosen[j]);
        store_pack(static_cast<uint8_t*>(g.offsets.data) + at, bytes);
      } else {
        for (int j = 0; j < kCount; ++j) store_tap(g.offsets.data, at + j, g.offset_bytes, chosen[j]);
      }
    }
  }
}

template <typename Policy, typename T, bool kOffsets, int kCount>
Status run_packs(const Pool& g) {
  const char* refusal;
  const Walk walk = walk_over(g.y, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(pool_reduce<Policy, T, kOffsets, kCount>, grid_of(walk), Pool(g), Walk(walk));
}

template <typename Policy, bool kOffsets>
Status run(const Pool& g) {
  if (numel(g.y) == 0) return kOk;
  Status status{"pooling has floating point kernels only"};
  visit_floating(g.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(g.x, kCount, sizeof(T)) && packs_fit(g.y, kCount, sizeof(T)) &&
                       (!kOffsets || packs_fit(g.offsets, kCount, g.offset_bytes));
    status = packs ? run_packs<Policy, T, kOffsets, kCount>(g) : run_packs<Policy, T, kOffsets, 1>(g);
  });
  return status;
}

}  // namespace

Status max_pool(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets) {
  Pool g{{}, x, y, offsets, offset_bytes(p)};
  if (!narrow(p, &g.axes)) return kTooWide;
  return offsets.data != nullptr ? run<MaxOp, true>(g) : run<MaxOp, false>(g);
}

Status avg_pool(const PoolProblem& p, const TensorView& x, const TensorView& y) {
  Pool g{{}, x, y, TensorView{}, 0};
  return narrow(p, &g.axes) ? run<AvgOp, false>(g) : kTooWide;
}

}  // namespace convkit::cuda
