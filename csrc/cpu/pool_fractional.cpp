// fractional_max_pool: maxima of windows that start where random samples say.
//
// Computes  y[o] = max over the window that starts at start(o) (first of ties; the last NaN wins), and its flat index
// Layout    any. A plane without neighbours along W is copied first; in channels_last several planes at once.
// Mapping   A task owns planes. An output row reduces the rows of its windows at once: a vector starts where a
//           window does, and serves all windows that start within its lanes; tap by tap in row-major order it keeps
//           the maximum and its distance from the window's start.
// Memory    scratch: the window starts of a plane, and the copied planes
// Limits    floating types; a window spans fewer than 2^31 positions from its first to its last
#include "core/fractional_window.h"
#include "cpu/pool_flat.h"
#include "cpu/pool_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kPlanesAtOnce = 16;  // of a channels_last image: a cache line of floats

// One plane, neighbours along W, and the places of its results.
template <typename T>
struct Plane {
  const T* x;
  int64_t d_stride, h_stride;
  T* y;
  int64_t* indices;  // nullptr: not wanted
};

template <typename T>
struct FractionalPool {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const FractionalProblem& p;
  const TensorView &x, &samples, &y, &indices;
  int64_t planes;  // copied at once; 0: none
  int64_t* starts[3];
  T* copies;

  void carve(Carver& carver, int) {
    for (int i = 0; i < 3; ++i) carver.take(&starts[i], p.out[i]);
    carver.take(&copies, planes * p.in[0] * p.in[1] * p.in[2]);
  }

  void find_starts(int64_t n, int64_t c) {
    for (int i = 0; i < 3; ++i) {
      const int64_t at = n * samples.stride[kN] + c * samples.stride[kC];
      // A dimension that the caller's tensors do not have has one window and needs no sample.
      const int k = i < 3 - p.spatial_dims ? 0 : fractional_sample(p.spatial_dims, i);
      const FractionalStarts<T> start(data<T>(samples) + at + k * samples.stride[kW], p.in[i], p.kernel[i], p.out[i]);
      for (int64_t o = 0; o < p.out[i]; ++o) starts[i][o] = start(o);
    }
  }

  // Windows (o, q) of one output row.
  template <bool kIndices>
  CONVKIT_INLINE void output_row(const Plane<T>& plane, int64_t o, int64_t q) {
    const int64_t d = starts[0][o], h = starts[1][q], width = p.in[2];
    const T* first_row = plane.x + d * plane.d_stride + h * plane.h_stride;
    const int64_t* start = starts[2];
    for (int64_t r = 0; r < p.out[2];) {
      const int64_t begin = start[r];
      Vec<A> best = splat<A>(MaxOp::identity<A>());
      Vec<I> chosen{};
      for (int64_t td = 0; td < p.kernel[0]; ++td)
        for (int64_t th = 0; th < p.kernel[1]; ++th) {
          const T* row = first_row + td * plane.d_stride + th * plane.h_stride + begin;
          const int64_t distance = (td * p.in[1] + th) * width;
          for (int64_t tw = 0; tw < p.kernel[2]; ++tw) {
            const Vec<A> v = load_up_to(row + tw, width - begin - tw);
            if constexpr (kIndices)
              MaxOp::choose(best, chosen, v, splat<I>(static_cast<I>(distance + tw)));
            else
              MaxOp::reduce(best, v);
          }
        }
      A values[kLanes];
      I distances[kLanes];
      store_vec(values, best);
      __builtin_memcpy(distances, &chosen, sizeof(chosen));
      const int64_t origin = (d * p.in[1] + h) * width;
      for (; r < p.out[2] && start[r] < begin + kLanes; ++r) {
        const int64_t lane = start[r] - begin;
        store_one(plane.y + offset(y, 0, 0, o, q, r), values[lane]);
        if constexpr (kIndices) plane.indices[offset(indices, 0, 0, o, q, r)] = origin + start[r] + distances[lane];
      }
    }
  }

  void one_plane(const Plane<T>& plane) {
    for (int64_t o = 0; o < p.out[0]; ++o)
      for (int64_t q = 0; q < p.out[1]; ++q) {
        if (plane.indices != nullptr)
          output_row<true>(plane, o, q);
        else
          output_row<false>(plane, o, q);
      }
  }

  // Channels [c, c + count) of image n to planes of their own.
  void copy_planes(int64_t n, int64_t c, int64_t count) {
    const int64_t volume = plane_volume(x);
    T* to = copies;
    for (int64_t d = 0; d < p.in[0]; ++d)
      for (int64_t h = 0; h < p.in[1]; ++h)
        for (int64_t w = 0; w < p.in[2]; ++w, ++to) {
          const T* from = data<T>(x) + offset(x, n, c, d, h, w);
          for (int64_t i = 0; i < count; ++i) to[i * volume] = from[i * x.stride[kC]];
        }
  }

  void block(int64_t n, int64_t c, int64_t count) {
    if (planes > 0) copy_planes(n, c, count);
    for (int64_t i = 0; i < count; ++i) {
      find_starts(n, c + i);
      Plane<T> plane{data<T>(x) + n * x.stride[kN] + (c + i) * x.stride[kC], x.stride[kD], x.stride[kH],
                     data<T>(y) + n * y.stride[kN] + (c + i) * y.stride[kC], nullptr};
      if (planes > 0) {
        plane.x = copies + i * plane_volume(x);
        plane.d_stride = p.in[1] * p.in[2];
        plane.h_stride = p.in[2];
      }
      if (indices.data != nullptr)
        plane.indices = data<int64_t>(indices) + n * indices.stride[kN] + (c + i) * indices.stride[kC];
      one_plane(plane);
    }
  }
};

}  // namespace

Status fractional_max_pool(const FractionalProblem& p, const TensorView& x, const TensorView& samples,
                           const TensorView& y, const TensorView& indices) {
  if (((p.kernel[0] - 1) * p.in[1] + p.kernel[1] - 1) * p.in[2] + p.kernel[2] > INT32_MAX)
    return {"a fractional pooling window must span fewer than 2^31 positions"};
  Failure failure;
  const bool known = visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const bool copied = !unit_stride(x, kW);
    const Blocks blocks(p.n, p.c, copied && p.c > 1 ? kPlanesAtOnce : 1, true);
    for_units(blocks.count(), plane_volume(x) * blocks.width, [&](int64_t begin, int64_t end) {
      FractionalPool<T> task{p, x, samples, y, indices, copied ? blocks.width : 0, {}, nullptr};
      if (!carve_scratch(&task, 0)) return failure.raise();
      for (int64_t b = begin; b < end; ++b) task.block(blocks.image(b), blocks.channel(b), blocks.channels(b));
    });
  });
  return known ? failure.status() : Status{"fractional pooling has kernels for floating dtypes only"};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
