// conv_depthwise: wgrad with one filter per channel, in one pass over dy and x.
//
// Computes  dw[c,t] = sum over n, o of dy[n,c,o] x[n,c,o*stride - pad + t*dilation]
// Layout    any strides: lanes lie along C where channels are neighbours, along W otherwise
// Mapping   a warp makes kTaps taps that follow each other along H (along W where lanes are channels and the filter
//           has height 1), of one filter column of 32 channels or of one. It goes down columns of positions, and
//           with stride and dilation 1 loads one element of dy and one of x for kTaps products. The warps of a block
//           have other columns of the filter and read the same elements, from L1. Columns of positions are cut into
//           chunks, a block each; a second launch adds the chunks' sums in order.
// Memory    dy and x are read once from beyond L1 per block of 8 filter columns; a workspace holds the chunks' sums
// Limits    as conv_depthwise.cu. The cut depends on the problem alone, and so do all bits.
#include <initializer_list>

#include "cuda/conv_kernels.h"
#include "cuda/device/divide.h"
#include "cuda/device/launch.h"
#include "cuda/reduce.h"

namespace convkit::cuda {
namespace {

constexpr int kMostWarps = 8, kAddThreads = 256;
constexpr int64_t kEnoughBlocks = 1024;  // several for each multiprocessor

struct Wgrad {
  TensorView dy, x, dw;
  int32_t in[3], out[3], filter[3], stride[3], pad[3], dilation[3];
  int32_t channels, taps, columns;  // columns of taps: T x S x groups of kTaps along R
  Divider filter_w, tap_groups;     // column -> (t, s, group)
  Divider across, deep;             // unit -> (n, o, r or 32 of them)
  int32_t chunks;
  int64_t units;
  void* sums;  // [chunk][channel][tap]
};

// kAlongC: lanes are channels. A: the type of the sums.
template <typename T, int kTaps, bool kAlongC>
__global__ void __launch_bounds__(kMostWarps* kWarpLanes, 2) depthwise_wgrad(const Wgrad g) {
  using A = accumulate_t<T>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarpLanes;
  int32_t column = static_cast<int32_t>(blockIdx.y * (blockDim.x / kWarpLanes) + threadIdx.x / kWarpLanes);
  if (column >= g.columns) return;  // the whole warp
  const int32_t group = g.tap_groups.take(&column), s = g.filter_w.take(&column), t = column;
  const int32_t first_tap = group * kTaps;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * (kAlongC ? kWarpLanes : 1) + (kAlongC ? lane : 0);
  const bool live = c < g.channels;
  const int64_t begin = g.units * blockIdx.z / g.chunks, end = g.units * (blockIdx.z + 1) / g.chunks;
  const bool slides = g.stride[1] == 1 && g.dilation[1] == 1;

  A sum[kTaps] = {};
  for (int64_t unit = begin; unit < end && live; ++unit) {
    int64_t n = unit;
    const int32_t tile = static_cast<int32_t>(n % g.across.divisor());
    n /= g.across.divisor();
    const int32_t o = static_cast<int32_t>(n % g.deep.divisor());
    n /= g.deep.divisor();
    const int32_t r = kAlongC ? tile : tile * kWarpLanes + lane;
    const int32_t d = o * g.stride[0] - g.pad[0] + t * g.dilation[0],
                  w = r * g.stride[2] - g.pad[2] + s * g.dilation[2];
    if (r >= g.out[2] || d < 0 || d >= g.in[0] || w < 0 || w >= g.in[2]) continue;
    const T* dy = data<T>(g.dy) + offset(g.dy, n, c, o, 0, r);
    const T* x = data<T>(g.x) + offset(g.x, n, c, d, 0, w);
    const auto element = [&](int32_t h) {
      return static_cast<uint32_t>(h) < static_cast<uint32_t>(g.in[1]) ? load(x + h * g.x.stride[kH]) : A(0);
    };
    const int32_t from = first_tap * g.dilation[1] - g.pad[1];
    A v[kTaps] = {};
    if (slides) {
      CONVKIT_UNROLL
      for (int j = 0; j + 1 < kTaps; ++j) v[j] = element(from + j);
    }
    for (int32_t q = 0; q < g.out[1]; ++q) {
      const A gradient = load(dy + q * g.dy.stride[kH]);
      CONVKIT_UNROLL
      for (int j = 0; j < kTaps; ++j) {
        if (!slides)
          v[j] = element(q * g.stride[1] + from + j * g.dilation[1]);
        else if (j == kTaps - 1)
          v[j] = element(q + from + j);
      }
      CONVKIT_UNROLL
      for (int j = 0; j < kTaps; ++j) {
        sum[j] += gradient * v[j];
        if (slides && j > 0) v[j - 1] = v[j];
      }
    }
  }
  CONVKIT_UNROLL
  for (int j = 0; j < kTaps; ++j) {
    const A total = kAlongC ? sum[j] : sum_warp(sum[j]);
    if (!live || first_tap + j >= g.filter[1] || (!kAlongC && lane > 0)) continue;
    const int32_t tap = (t * g.filter[1] + first_tap + j) * g.filter[2] + s;
    static_cast<A*>(g.sums)[(static_cast<int64_t>(blockIdx.z) * g.channels + c) * g.taps + tap] = total;
  }
}

// dw from the chunks' sums: rows of threads take chunks in turn (reduce.h), columns are elements of dw.
template <typename T>
__global__ void __launch_bounds__(kAddThreads) depthwise_wgrad_add(const Wgrad g, const int32_t lanes) {
  using A = accumulate_t<T>;
  const int64_t count = static_cast<int64_t>(g.channels) * g.taps;
  const int32_t thread = static_cast<int32_t>(threadIdx.x), row = thread / lanes;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * lanes + (thread & (lanes - 1));
  A sum[1] = {};
  for (int32_t chunk = row; chunk < g.chunks && i < count; chunk += kAddThreads / lanes)
    sum[0] += static_cast<const A*>(g.sums)[chunk * count + i];
  sum_rows(sum, lanes, static_cast<A*>(shared_memory()));
  if (row > 0 || i >= count) return;
  const int32_t tap = static_cast<int32_t>(i % g.taps);
  store(data<T>(g.dw) + offset(g.dw, i / g.taps, 0, tap / g.filter[2] / g.filter[1], tap / g.filter[2] % g.filter[1],
                               tap % g.filter[2]),
        sum[0]);
}

template <typename T, int kTaps, bool kAlongC>
Status run(Wgrad g) {
  using A = accumulate_t<T>;
  const int64_t groups = ceil_div(g.filter[1], kTaps), columns = groups * g.filter[0] * g.filter[2];
  const int64_t warps = columns < kMostWarps ? columns : kMostWarps;
  const int64_t channel_tiles = kAlongC ? ceil_div(g.channels, kWarpLanes) : g.channels;
  const int64_t column_tiles = ceil_div(columns, warps);
  const int64_t across = kAlongC ? g.out[2] : ceil_div(g.out[2], kWarpLanes);
  g.columns = static_cast<int32_t>(columns);
  g.tap_groups = Divider(groups);
  g.filter_w = Divider(g.filter[2]);
  g.across = Divider(across > 0 ? across : 1);
  g.deep = Divider(g.out[0] > 0 ? g.out[0] : 1);
  g.units = g.dy.size[kN] * g.out[0] * across;
  const int64_t wanted = ceil_div(kEnoughBlocks, channel_tiles * column_tiles);
  g.chunks = static_cast<int32_t>(wanted < g.units ? wanted : g.units > 0 ? g.units : 1);
  if (column_tiles > kMostBlocksY) return {"conv_depthwise: more columns of taps than one grid has blocks"};
  const int64_t count = static_cast<int64_t>(g.channels) * g.taps;
  const Workspace workspace(g.chunks * count * static_cast<int64_t>(sizeof(A)));
  if (!workspace.status().ok()) return workspace.status();
  g.sums = workspace.as<A>();
  const Grid grid{blocks(channel_tiles, column_tiles, g.chunks), threads(warps * kWarpLanes)};
  const Status status = launch(depthwise_wgrad<T, kTaps, kAlongC>, grid, Wgrad(g));
  if (!status.ok()) return status;
  const int64_t lanes = lanes_of_rows(kAddThreads, g.chunks);
  const Grid adders{blocks(ceil_div(count, lanes)), threads(kAddThreads), kAddThreads * sizeof(A)};
  return launch(depthwise_wgrad_add<T>, adders, Wgrad(g), static_cast<int32_t>(lanes));
}

template <typename T>
void exchange(T* v) {
  const T first = v[0];
  v[0] = v[1];
  v[1] = first;
}

// The same problem, with taps that follow each other along W.
void exchange_h_and_w(Wgrad* g) {
  for (TensorView* t : {&g->dy, &g->x, &g->dw}) {
    exchange(t->size + kH);
    exchange(t->stride + kH);
  }
  for (int32_t* v : {g->in, g->out, g->filter, g->stride, g->pad, g->dilation}) exchange(v + 1);
}

}  // namespace

Status conv_wgrad_depthwise(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  if (numel(dw) == 0) return kOk;
  Wgrad g{};
  g.dy = dy;
  g.x = x;
  g.dw = dw;
  for (int i = 0; i < 3; ++i) {
    g.in[i] = static_cast<int32_t>(p.in[i]);
    g.out[i] = static_cast<int32_t>(p.out[i]);
    g.filter[i] = static_cast<int32_t>(p.filter[i]);
    g.stride[i] = static_cast<int32_t>(p.stride[i]);
    g.pad[i] = static_cast<int32_t>(p.pad_before[i]);
    g.dilation[i] = static_cast<int32_t>(p.dilation[i]);
  }
  g.channels = static_cast<int32_t>(p.c);
  g.taps = static_cast<int32_t>(volume(p.filter));
  const bool along_c = dy.stride[kC] == 1 && x.stride[kC] == 1 && p.c >= 8;
  if (along_c && p.filter[1] == 1) exchange_h_and_w(&g);
  Status status = kOk;
  visit_floating(dw.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (along_c)
      status = g.filter[1] <= 4 ? run<T, 4, true>(g) : run<T, 8, true>(g);
    else if (g.filter[1] == 1)
      status = run<T, 1, false>(g);
    else
      status = g.filter[1] <= 4 ? run<T, 4, false>(g) : run<T, 8, false>(g);
  });
  return status;
}

}  // namespace convkit::cuda
