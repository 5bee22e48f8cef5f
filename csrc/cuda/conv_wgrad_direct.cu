// conv_direct: wgrad on CUDA cores, by the definition.
//
// Computes  dw[k,c,t] = sum over n, o, q, r of dy[n,k,o,q,r] x[n,c,o*stride - pad + t*dilation]
// Layout    any strides, any groups
// Mapping   a block makes one tap of 4 x 4 filters and channels of one group; its threads share the positions of all
//           images, each holds 4 x 4 sums
// Memory    no staging. Sums over threads go by warp shuffles and one table in shared memory, a row per warp.
// Limits    floating dtypes, zero padding. The order of a sum depends on nothing but the problem: the same bits each
// time.
#include "core/conv_problem.h"
#include "cuda/conv_kernels.h"
#include "cuda/device/divide.h"
#include "cuda/device/launch.h"
#include "cuda/reduce.h"

namespace convkit::cuda {
namespace {

constexpr int kMostThreads = 256, kTile = 4;

struct Positions {
  Divider w, h, d;  // position of one image -> r, q, o
  int32_t count;
};

struct Wgrad {
  TensorView dy, x, dw;
  Spatial in, stride, pad, dilation;
  Positions positions;
  int64_t images;
  int32_t group_k, group_c;
  Divider tiles_of_c, tiles_of_k, taps_w, taps_h;
};

template <typename T>
__global__ void __launch_bounds__(kMostThreads) wgrad_direct(const Wgrad g) {
  using A = accumulate_t<T>;
  int32_t group = static_cast<int32_t>(blockIdx.x), tap_d = static_cast<int32_t>(blockIdx.y);
  const int32_t c = g.tiles_of_c.take(&group) * kTile, k = g.tiles_of_k.take(&group) * kTile;
  const int32_t tap_w = g.taps_w.take(&tap_d), tap_h = g.taps_h.take(&tap_d);
  const int64_t tap[3] = {tap_d, tap_h, tap_w};
  const int32_t filters = g.group_k - k < kTile ? g.group_k - k : kTile;
  const int32_t channels = g.group_c - c < kTile ? g.group_c - c : kTile;

  A sum[kTile * kTile] = {};
  for (int64_t n = 0; n < g.images; ++n) {
    const T* dy = data<T>(g.dy) + n * g.dy.stride[kN] + (static_cast<int64_t>(group) * g.group_k + k) * g.dy.stride[kC];
    const T* x = data<T>(g.x) + n * g.x.stride[kN] + (static_cast<int64_t>(group) * g.group_c + c) * g.x.stride[kC];
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < g.positions.count; i += static_cast<int32_t>(blockDim.x)) {
      int32_t rest = i;
      const int64_t r = g.positions.w.take(&rest), q = g.positions.h.take(&rest);
      const int64_t at[3] = {rest, q, r};
      int64_t from = 0, to = 0;
      bool inside = true;
      CONVKIT_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        const int64_t where = at[axis] * g.stride[axis] - g.pad[axis] + tap[axis] * g.dilation[axis];
        inside = inside && where >= 0 && where < g.in[axis];
        from += where * g.x.stride[kD + axis];
        to += at[axis] * g.dy.stride[kD + axis];
      }
      if (!inside) continue;
      A v[kTile];
      CONVKIT_UNROLL
      for (int j = 0; j < kTile; ++j) v[j] = j < channels ? load(x + from + j * g.x.stride[kC]) : A(0);
      CONVKIT_UNROLL
      for (int f = 0; f < kTile; ++f) {
        const A d = f < filters ? load(dy + to + f * g.dy.stride[kC]) : A(0);
        CONVKIT_UNROLL
        for (int j = 0; j < kTile; ++j) sum[f * kTile + j] += d * v[j];
      }
    }
  }
  const A total = sum_block(sum, static_cast<A*>(shared_memory()));
  const int32_t f = static_cast<int32_t>(threadIdx.x) / kTile, j = static_cast<int32_t>(threadIdx.x) % kTile;
  if (f < filters && j < channels)
    store(data<T>(g.dw) + offset(g.dw, static_cast<int64_t>(group) * g.group_k + k + f, c + j, tap_d, tap_h, tap_w),
          total);
}

Positions positions_of(const TensorView& t) {
  return Positions{Divider(t.size[kW]), Divider(t.size[kH]), Divider(t.size[kD]),
                   static_cast<int32_t>(t.size[kD] * t.size[kH] * t.size[kW])};
}

// A thread per position, up to a full block.
int64_t threads_for(const Positions& positions) { return whole_warps(positions.count, kMostThreads); }

}  // namespace

Status conv_wgrad_direct(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  if (numel(dw) == 0) return kOk;
  Wgrad g{};
  g.dy = dy;
  g.x = x;
  g.dw = dw;
  g.in = p.in;
  g.stride = p.stride;
  g.pad = p.pad_before;
  g.dilation = p.dilation;
  g.images = numel(dy) == 0 ? 0 : p.n;
  if (g.images > 0) g.positions = positions_of(dy);
  g.group_k = static_cast<int32_t>(p.k / p.groups);
  g.group_c = static_cast<int32_t>(p.c / p.groups);
  const int64_t tiles_k = ceil_div(g.group_k, kTile), tiles_c = ceil_div(g.group_c, kTile);
  g.tiles_of_c = Divider(tiles_c);
  g.tiles_of_k = Divider(tiles_k);
  g.taps_w = Divider(p.filter[2]);
  g.taps_h = Divider(p.filter[1]);
  if (tiles_k * tiles_c * p.groups > kMostBlocksX || volume(p.filter) > kMostBlocksY)
    return {"conv_direct: more tiles than one grid has blocks"};
  Status status = kOk;
  visit_floating(dw.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const int64_t count = threads_for(g.positions);
    const Grid grid{blocks(tiles_k * tiles_c * p.groups, volume(p.filter)), threads(count),
                    static_cast<size_t>(count / kWarpLanes * kTile * kTile) * sizeof(accumulate_t<T>)};
    status = launch(wgrad_direct<T>, grid, Wgrad(g));
  });
  return status;
}

}  // namespace convkit::cuda
