// plane_scatter: elements are added where flat indices say.
//
// Computes  dx[indices[o]] += dy[o], added in row-major order of o
// Layout    any strides
// Mapping   a warp makes one chunk of one plane's positions in shared memory: it reads the plane's indices 32 at a
//           time, in row-major order, and keeps those of its chunk. Lanes that name one position find each other by a
//           match, and add one after the other. So no atomics are needed, and the order is the definition's. The chunk
//           is then written once, zeros included: there is no pass of zeros before. Where channels are neighbours a
//           block is up to 8 of them, a warp each, which share the lines of dy and indices in L1 and write 8 neighbours
//           at once.
// Memory    indices are read once per chunk of 16 KB of sums, from L2 behind the first; dx is written once
// Limits    floating dtypes; planes of 2^30 positions. An index outside of the plane adds nothing.
#include "cuda/pool_flat.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

constexpr int kMostWarps = 8;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Scatter {
  TensorView x, indices, y;
  Plane from, to;
  Divider chunks, groups;             // blockIdx.x -> (image, group of channels, chunk)
  int32_t chunk, pitch, channels, c;  // positions of a chunk; elements between two warps' chunks; of a block; in all
};

template <typename T>
__global__ void __launch_bounds__(kMostWarps* kWarpLanes) add_in_planes(const Scatter g) {
  using E = accumulate_t<T>;
  const int32_t thread = static_cast<int32_t>(threadIdx.x), lane = thread % kWarpLanes, warp = thread / kWarpLanes;
  int32_t n = static_cast<int32_t>(blockIdx.x);
  const int32_t begin = g.chunks.take(&n) * g.chunk, first = g.groups.take(&n) * g.channels;
  const int32_t count = g.to.volume - begin < g.chunk ? g.to.volume - begin : g.chunk;
  E* sums = static_cast<E*>(shared_memory());
  E* own = sums + warp * g.pitch;
  for (int32_t i = lane; i < count; i += kWarpLanes) own[i] = E{};
  __syncwarp(kAllLanes);

  const int32_t channel = first + warp < g.c ? first + warp : g.c - 1;  // a warp beyond the last does the last's work
  const T* x = data<T>(g.x) + n * g.x.stride[kN] + channel * g.x.stride[kC];
  const int64_t* indices = data<int64_t>(g.indices) + n * g.indices.stride[kN] + channel * g.indices.stride[kC];
  const auto index_at = [&](int32_t o) -> int64_t {
    return o < g.from.volume ? indices[offset(g.indices, 0, 0, g.from.at(o).d, g.from.at(o).h, g.from.at(o).w)] : 0;
  };
  int64_t next = index_at(lane);
  for (int32_t base = 0; base < g.from.volume; base += kWarpLanes) {
    const int32_t o = base + lane;
    const int64_t index = next;
    next = index_at(o + kWarpLanes);  // on its way while this one is worked on
    const bool take = o < g.from.volume && index >= begin && index < begin + count;
    if (!__any_sync(kAllLanes, take)) continue;
    // Lanes that take nothing have keys that no index of the chunk has, and are mates of nobody who does.
    const int32_t at = take ? static_cast<int32_t>(index - begin) : -1;
    const unsigned mates = __match_any_sync(kAllLanes, at);
    T value{};
    if (take) {
      const Window where = g.from.at(o);
      value = x[offset(g.x, 0, 0, where.d, where.h, where.w)];
    }
    const int before = __popc(mates & ((1u << lane) - 1));
    for (int turn = 0; __any_sync(kAllLanes, take && before >= turn); ++turn) {
      if (take && before == turn) own[at] += load(&value);
      __syncwarp(kAllLanes);
    }
  }
  __syncthreads();

  // Channels fastest where there are several: neighbours in memory.
  const int32_t live = g.c - first < g.channels ? g.c - first : g.channels;
  for (int32_t i = thread; i < count * g.channels; i += static_cast<int32_t>(blockDim.x)) {
    const int32_t c = i % g.channels, position = i / g.channels;
    if (c >= live) continue;
    const Window where = g.to.at(begin + position);
    T* to = data<T>(g.y) + offset(g.y, n, first + c, where.d, where.h, where.w);
    store(to, sums[c * g.pitch + position]);
  }
}

template <typename T>
Status run(const TensorView& x, const TensorView& indices, const TensorView& y) {
  using E = accumulate_t<T>;
  Scatter g{};
  g.x = x;
  g.indices = indices;
  g.y = y;
  if (!plane_of(x, &g.from) || !plane_of(y, &g.to)) return kPlaneTooLarge;
  g.c = static_cast<int32_t>(y.size[kC]);
  g.channels = y.stride[kC] != 1 ? 1 : g.c < kMostWarps ? g.c : kMostWarps;
  // At most 40 KB of a block; one element more for each, so that a position's channels lie in different banks.
  constexpr int32_t kPlaneBytes = 16 << 10, kBlockBytes = 40 << 10;
  const int32_t share = kBlockBytes / g.channels;
  g.chunk = (share < kPlaneBytes ? share : kPlaneBytes) / static_cast<int32_t>(sizeof(E));
  g.chunk = g.to.volume < g.chunk ? g.to.volume : g.chunk;
  g.pitch = g.chunk + 1;
  const int64_t chunks = ceil_div(g.to.volume, g.chunk), groups = ceil_div(g.c, g.channels);
  if (chunks * groups * y.size[kN] > kMostBlocksX) return {"more chunks of planes than one grid has blocks"};
  g.chunks = Divider(chunks);
  g.groups = Divider(groups);
  const Grid grid{blocks(chunks * groups * y.size[kN]), threads(g.channels * kWarpLanes),
                  static_cast<size_t>(g.channels * g.pitch) * sizeof(E)};
  return launch(add_in_planes<T>, grid, Scatter(g));
}

}  // namespace

Status plane_scatter(const TensorView& dy, const TensorView& indices, const TensorView& dx) {
  if (numel(dx) == 0) return kOk;
  Status status = kFlatFloatingOnly;
  visit_floating(dy.dtype, [&](auto t) { status = run<typename decltype(t)::type>(dy, indices, dx); });
  return status;
}

}  // namespace convkit::cuda
