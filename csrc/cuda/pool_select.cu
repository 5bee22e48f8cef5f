// pool_select and pool_indices: what window offsets name.
//
// Computes  pool_select   y[o] = x[start(o) + tap(offset[o]) * dilation];  pool_indices: its flat position in the plane
// Layout    any strides. Offsets and results move in packs of 16 bytes of results where channels are neighbours.
// Mapping   a thread follows one offset, or those of one pack of channels, in the order of the result's memory
// Memory    one read by offset, from a window that its neighbours read too
// Limits    2^31 offsets per image; an offset that names no tap of its window, or one in the padding, selects 0 and has
//           index -1
#include "cuda/pool_axes.h"
#include "cuda/pool_kernels.h"
#include "cuda/pool_offsets.h"

namespace convkit::cuda {
namespace {

struct Select {
  PoolAxes axes;
  PlaneView x, offsets, result;
  int64_t offset_bytes;
  Divider kernel_w, kernel_h;
};

CONVKIT_DEVICE bool inside(const Taps1d<int32_t>& t, int32_t tap) { return tap >= t.begin && tap < t.end; }

// Where tap number `tap` of the window reads; false if nowhere.
CONVKIT_DEVICE bool locate(const Select& g, const Box& box, int32_t tap, Window* from) {
  if (tap < 0) return false;
  const int32_t w = g.kernel_w.take(&tap), h = g.kernel_h.take(&tap);
  *from = Window{box.d.start + tap * g.axes.d.dilation, box.h.start + h * g.axes.h.dilation,
                 box.w.start + w * g.axes.w.dilation};
  return inside(box.d, tap) && inside(box.h, h) && inside(box.w, w);
}

// result[o] = of(n, c, found, element) in packs of kCount channels.
template <typename T, int kCount, typename F>
CONVKIT_DEVICE void for_chosen(const Select& g, const Walk& walk, const F& of) {
  int64_t c;
  Window window;
  if (!walk.find(kCount, &c, &window)) return;
  const Box box = box_of(g.axes, window);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    int32_t taps[kCount];
    load_offsets<kCount>(g.offsets, offset(g.offsets, n, c, window), g.offset_bytes, taps);
    Pack<T, kCount> pack;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      Window from;
      const bool found = locate(g, box, taps[j], &from);
      pack.v[j] = of(n, c + j, found, from);
    }
    store_pack(data<T>(g.result) + offset(g.result, n, c, window), pack);
  }
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_select_elements(const Select g, const Walk walk) {
  for_chosen<T, kCount>(g, walk, [&](int64_t n, int64_t c, bool found, const Window& from) {
    return found ? data<T>(g.x)[offset(g.x, n, c, from)] : T{};
  });
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) pool_select_indices(const Select g, const Walk walk) {
  for_chosen<T, kCount>(g, walk, [&](int64_t, int64_t, bool found, const Window& from) {
    const T row = static_cast<T>(from.d) * g.axes.h.in + from.h;
    return found ? row * g.axes.w.in + from.w : T{-1};
  });
}

// One of two kernels: with packs of kCount results, or with single ones.
template <typename T>
Status run(void (*packed)(Select, Walk), void (*single)(Select, Walk), const Select& g) {
  constexpr int kCount = kPackCount<T>;
  const bool packs = packs_fit(g.result, kCount, sizeof(T)) && packs_fit(g.offsets, kCount, g.offset_bytes);
  const char* refusal;
  const Walk walk = walk_over(g.result, packs ? kCount : 1, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(packs ? packed : single, grid_of(walk), Select(g), Walk(walk));
}

bool select_of(const PoolProblem& p, const TensorView& x, const TensorView& offsets, const TensorView& result,
               Select* g) {
  if (!narrow(p, &g->axes) || !narrow(x, &g->x) || !narrow(offsets, &g->offsets) || !narrow(result, &g->result))
    return false;
  g->offset_bytes = offset_bytes(p);
  g->kernel_w = Divider(p.kernel[2]);
  g->kernel_h = Divider(p.kernel[1]);
  return true;
}

}  // namespace

Status pool_select(const PoolProblem& p, const TensorView& x, const TensorView& offsets, const TensorView& y) {
  if (numel(y) == 0) return kOk;
  Select g{};
  if (!select_of(p, x, offsets, y, &g)) return kTooWide;
  Status status = kFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    status = run<T>(pool_select_elements<T, kPackCount<T>>, pool_select_elements<T, 1>, g);
  });
  return status;
}

Status pool_indices(const PoolProblem& p, const TensorView& offsets, const TensorView& indices) {
  if (numel(indices) == 0) return kOk;
  Select g{};
  if (!select_of(p, TensorView{}, offsets, indices, &g)) return kTooWide;
  return run<int64_t>(pool_select_indices<int64_t, kPackCount<int64_t>>, pool_select_indices<int64_t, 1>, g);
}

}  // namespace convkit::cuda
