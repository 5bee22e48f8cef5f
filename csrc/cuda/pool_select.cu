// pool_select and pool_indices: what window offsets name.
//
// Computes  pool_select   y[o] = x[start(o) + tap(offset[o]) * dilation];  pool_indices: its flat position in the plane
// Layout    any strides
// Mapping   a thread follows one offset, in the order of the result's memory
// Memory    one read by offset, from a window that its neighbours read too
// Limits    2^31 offsets per image; an offset that names no tap, or one in the padding, selects 0 and has index -1
#include "cuda/pool_axes.h"
#include "cuda/pool_kernels.h"
#include "cuda/walk.h"

namespace convkit::cuda {
namespace {

struct Select {
  PoolAxes axes;
  TensorView x, offsets, result;
  int64_t offset_bytes;
};

// Where tap number `*tap` of a window reads along one dimension, the number being the remainder of slower dimensions'
// afterwards; false if outside.
CONVKIT_DEVICE bool locate(const WindowAxis<int32_t>& axis, int32_t o, int32_t* tap, int32_t* position) {
  *position = window_start(axis, o) + *tap % axis.kernel * axis.dilation;
  *tap /= axis.kernel;
  return *position >= 0 && *position < axis.in;
}

template <typename F>
CONVKIT_DEVICE void for_chosen(const Select& g, const Walk& walk, const F& f) {
  const PoolAxes& p = g.axes;
  int64_t c;
  Window window;
  if (!walk.find(1, &c, &window)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const int64_t at = offset(g.offsets, n, c, window.d, window.h, window.w);
    int32_t tap = static_cast<int32_t>(load_tap(g.offsets.data, at, g.offset_bytes));
    Window from;
    const bool found = tap >= 0 && locate(p.w, window.w, &tap, &from.w) && locate(p.h, window.h, &tap, &from.h) &&
                       locate(p.d, window.d, &tap, &from.d) && tap == 0;
    f(n, c, offset(g.result, n, c, window.d, window.h, window.w), found, from);
  }
}

template <typename T>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_select_elements(const Select g, const Walk walk) {
  for_chosen(g, walk, [&](int64_t n, int64_t c, int64_t to, bool found, const Window& from) {
    data<T>(g.result)[to] = found ? data<T>(g.x)[offset(g.x, n, c, from.d, from.h, from.w)] : T{};
  });
}

__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_select_indices(const Select g, const Walk walk) {
  for_chosen(g, walk, [&](int64_t, int64_t, int64_t to, bool found, const Window& from) {
    const int64_t row = static_cast<int64_t>(from.d) * g.axes.h.in + from.h;
    data<int64_t>(g.result)[to] = found ? row * g.axes.w.in + from.w : -1;
  });
}

template <typename Kernel>
Status run(Kernel kernel, const Select& g) {
  const char* refusal;
  const Walk walk = walk_over(g.result, 1, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(kernel, grid_of(walk), Select(g), Walk(walk));
}

}  // namespace

Status pool_select(const PoolProblem& p, const TensorView& x, const TensorView& offsets, const TensorView& y) {
  if (numel(y) == 0) return kOk;
  Select g{{}, x, offsets, y, offset_bytes(p)};
  if (!narrow(p, &g.axes)) return kTooWide;
  Status status{"pooling has floating point kernels only"};
  visit_floating(x.dtype, [&](auto t) { status = run(pool_select_elements<typename decltype(t)::type>, g); });
  return status;
}

Status pool_indices(const PoolProblem& p, const TensorView& offsets, const TensorView& indices) {
  if (numel(indices) == 0) return kOk;
  Select g{{}, TensorView{}, offsets, indices, offset_bytes(p)};
  return narrow(p, &g.axes) ? run(pool_select_indices, g) : kTooWide;
}

}  // namespace convkit::cuda
