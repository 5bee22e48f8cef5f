// plane_gather and fractional_max_pool: one element of the result from places that indices or samples name.
//
// Computes  plane_gather         y[o] = x[indices[o]], 0 where an index lies outside of the plane
//           fractional_max_pool  y[o] = max over the window that starts at start(o) (first of ties; the last NaN wins),
//                                and its flat index
// Layout    any strides
// Mapping   a thread makes one element of y, in the order of its memory; it works out the starts of its window from the
//           samples, two roundings and a division per dimension (core/fractional_window.h)
// Memory    reads through the cache; samples are shared by all windows of a plane
// Limits    floating dtypes; planes of 2^30 positions, 2^31 elements of y per image
#include "core/fractional_window.h"
#include "core/pool_ops.h"
#include "cuda/pool_flat.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

struct Gather {
  TensorView x, indices, y;
  Plane plane;
};

template <typename T>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) gather_from_planes(const Gather g, const Walk walk) {
  int64_t c;
  Window to;
  if (!walk.find(1, &c, &to)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const int64_t index = data<int64_t>(g.indices)[offset(g.indices, n, c, to.d, to.h, to.w)];
    T value{};
    if (index >= 0 && index < g.plane.volume) {
      const Window from = g.plane.at(static_cast<int32_t>(index));
      value = data<T>(g.x)[offset(g.x, n, c, from.d, from.h, from.w)];
    }
    data<T>(g.y)[offset(g.y, n, c, to.d, to.h, to.w)] = value;
  }
}

struct Fractional {
  FractionalProblem problem;
  TensorView x, samples, y, indices;
};

template <typename T, bool kIndices>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) fractional_windows(const Fractional g, const Walk walk) {
  using A = accumulate_t<T>;
  const FractionalProblem& p = g.problem;
  int64_t c;
  Window at;
  if (!walk.find(1, &c, &at)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const T* samples = data<T>(g.samples) + n * g.samples.stride[kN] + c * g.samples.stride[kC];
    const int32_t window[3] = {at.d, at.h, at.w};
    int32_t start[3];
    CONVKIT_UNROLL
    for (int i = 0; i < 3; ++i) {
      // A dimension that the caller's tensors do not have has one window and needs no sample.
      const int k = i < 3 - p.spatial_dims ? 0 : fractional_sample(p.spatial_dims, i);
      const FractionalStarts<T> starts(samples + k * g.samples.stride[kW], p.in[i], p.kernel[i], p.out[i]);
      start[i] = static_cast<int32_t>(starts(window[i]));
    }
    const int32_t height = static_cast<int32_t>(p.in[1]), width = static_cast<int32_t>(p.in[2]);
    const int32_t origin = (start[0] * height + start[1]) * width + start[2];
    const T* x = data<T>(g.x) + offset(g.x, n, c, start[0], start[1], start[2]);
    A best = MaxOp::identity<A>();
    int32_t chosen = origin;
    for (int32_t d = 0; d < p.kernel[0]; ++d)
      for (int32_t h = 0; h < p.kernel[1]; ++h)
        for (int32_t w = 0; w < p.kernel[2]; ++w) {
          const A v = load(x + offset(g.x, 0, 0, d, h, w));
          if constexpr (kIndices)
            MaxOp::choose(best, chosen, v, origin + (d * height + h) * width + w);
          else
            MaxOp::reduce(best, v);
        }
    store(data<T>(g.y) + offset(g.y, n, c, at.d, at.h, at.w), best);
    if constexpr (kIndices) data<int64_t>(g.indices)[offset(g.indices, n, c, at.d, at.h, at.w)] = chosen;
  }
}

template <typename G>
Status over(void (*kernel)(G, Walk), const G& g) {
  const char* refusal;
  const Walk walk = walk_over(g.y, 1, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(kernel, grid_of(walk), G(g), Walk(walk));
}

}  // namespace

Status plane_gather(const TensorView& x, const TensorView& indices, const TensorView& y) {
  if (numel(y) == 0) return kOk;
  Gather g{x, indices, y, {}};
  if (!plane_of(x, &g.plane)) return kPlaneTooLarge;
  Status status = kFlatFloatingOnly;
  visit_floating(x.dtype, [&](auto t) { status = over(gather_from_planes<typename decltype(t)::type>, g); });
  return status;
}

Status fractional_max_pool(const FractionalProblem& p, const TensorView& x, const TensorView& samples,
                           const TensorView& y, const TensorView& indices) {
  if (numel(y) == 0) return kOk;
  Plane plane;
  if (!plane_of(x, &plane)) return kPlaneTooLarge;
  const Fractional g{p, x, samples, y, indices};
  Status status = kFlatFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = indices.data != nullptr ? over(fractional_windows<T, true>, g) : over(fractional_windows<T, false>, g);
  });
  return status;
}

}  // namespace convkit::cuda
