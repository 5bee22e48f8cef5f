// pool_gather: the adjoints of pooling, each element of dx written once, without atomics or a pass of zeros.
//
// Computes  avg_pool_bwd     dx[i] = sum over the windows o that read i of dy[o] / divisor(o)
//           pool_select_bwd  dx[i] = sum over the windows o whose offset names i of dy[o]
// Layout    any strides; packs of 16 bytes of channels that are neighbours
// Mapping   a thread makes one element of dx, or one pack of channels, in the order of dx's memory, and visits the
//           windows that read it in row-major order
// Memory    dy and offsets are read through the cache, about kernel / stride times each
// Limits    floating dtypes; 2^31 elements of dx per image
#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"
#include "cuda/pool_kernels.h"
#include "cuda/pool_offsets.h"

namespace convkit::cuda {
namespace {

struct Adjoint {
  PoolAxes axes;
  TensorView dy, offsets, dx;
  int64_t offset_bytes;
};

template <typename T, bool kSelect, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_gather(const Adjoint g, const Walk walk) {
  using A = accumulate_t<T>;
  const PoolAxes& p = g.axes;
  int64_t c;
  Window at;
  if (!walk.find(kCount, &c, &at)) return;
  const auto taps = [&](const WindowAxis<int32_t>& axis, int32_t o) {
    return kSelect || p.divisor_override != 0 ? A(1) : static_cast<A>(divisor_taps(axis, p.count_include_pad, o));
  };
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    A sum[kCount] = {};
    for_readers(p.d, at.d, [&](int32_t o, int32_t a) {
      const A divisor_d = kSelect || p.divisor_override == 0 ? taps(p.d, o) : static_cast<A>(p.divisor_override);
      for_readers(p.h, at.h, [&](int32_t q, int32_t b) {
        const A divisor_h = divisor_d * taps(p.h, q);
        for_readers(p.w, at.w, [&](int32_t r, int32_t s) {
          const auto pack = load_pack<T, kCount>(data<T>(g.dy) + offset(g.dy, n, c, o, q, r));
          if constexpr (kSelect) {
            const int32_t tap = p.number(a, b, s);
            int32_t chosen[kCount];
            load_offsets<kCount>(g.offsets, offset(g.offsets, n, c, o, q, r), g.offset_bytes, chosen);
            CONVKIT_UNROLL
            for (int j = 0; j < kCount; ++j)
              if (chosen[j] == tap) sum[j] += load(&pack.v[j]);
          } else {
            const A divisor = divisor_h * taps(p.w, r);
            CONVKIT_UNROLL
            for (int j = 0; j < kCount; ++j) sum[j] += load(&pack.v[j]) / divisor;
          }
        });
      });
    });
    Pack<T, kCount> result;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) store(&result.v[j], sum[j]);
    store_pack(data<T>(g.dx) + offset(g.dx, n, c, at.d, at.h, at.w), result);
  }
}

template <typename T, bool kSelect, int kCount>
Status run_packs(const Adjoint& g) {
  const char* refusal;
  const Walk walk = walk_over(g.dx, kCount, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(pool_gather<T, kSelect, kCount>, grid_of(walk), Adjoint(g), Walk(walk));
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
    status = packs ? run_packs<T, kSelect, kCount>(g) : run_packs<T, kSelect, 1>(g);
  });
  return status;
}

}  // namespace

Status avg_pool_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& dx) {
  Adjoint g{{}, dy, TensorView{}, dx, 0};
  return narrow(p, &g.axes) ? run<false>(g) : kTooWide;
}

Status pool_select_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  Adjoint g{{}, dy, offsets, dx, offset_bytes(p)};
  return narrow(p, &g.axes) ? run<true>(g) : kTooWide;
}

}  // namespace convkit::cuda
