// conv_pack: a tensor of any strides as the operand of an implicit GEMM.
//
// Computes  to[row][position][channel] = from, with zeros behind the rows and channels of each group (conv_pack.h)
// Layout    from: any strides; to: dense, channels fastest, whole vectors of 16 bytes of them
// Mapping   a block moves a tile of positions x channels of one row through shared memory; rows lie along blockIdx.y,
//           which goes round. Reading, neighbouring threads take neighbouring positions, or channels where these are
//           neighbours in memory; writing, vectors of channels.
// Memory    each element is read once and written once, both coalesced
// Limits    types of 2 and 4 bytes; 2^31 positions and channels per row
#include "cuda/conv_pack.h"

namespace convkit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kTileElements = 4096, kTileChannels = 64;

struct Pack2d {
  TensorView from;
  void* to;
  Divider w, h, position_tiles;  // position -> (d, h, w); blockIdx.x -> (tile of channels, tile of positions)
  Divider tile_positions, tile_channels;
  Divider row_pitch, channel_pitch;   // row of `to` -> (group, row), channel -> (group, channel)
  int32_t rows_each, channels_each;   // of a group, in `from`
  int32_t rows, positions, channels;  // of `to`
  bool channels_first;                // of neighbouring threads
};

template <typename T>
__global__ void __launch_bounds__(kThreads) pack_tiles(const Pack2d g) {
  constexpr int kCount = kPackCount<T>;
  T* tile = static_cast<T*>(shared_memory());
  const int32_t wide = g.tile_channels.divisor(), pitch = wide + kCount, high = g.tile_positions.divisor();
  int32_t channel_tile = static_cast<int32_t>(blockIdx.x);
  const int32_t first_position = g.position_tiles.take(&channel_tile) * high, first_channel = channel_tile * wide;
  for (int32_t row = static_cast<int32_t>(blockIdx.y); row < g.rows; row += static_cast<int32_t>(gridDim.y)) {
    int32_t row_group = row;
    const int32_t of_group = g.row_pitch.take(&row_group);
    const T* from = data<T>(g.from) + (static_cast<int64_t>(row_group) * g.rows_each + of_group) * g.from.stride[kN];
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < high * wide; i += kThreads) {
      int32_t p = i, c = i;
      if (g.channels_first)
        c = g.tile_channels.take(&p);
      else
        p = g.tile_positions.take(&c);
      int32_t d = first_position + p, group = first_channel + c;
      const bool inside = of_group < g.rows_each && d < g.positions && group < g.channels;
      const int32_t channel = g.channel_pitch.take(&group);
      const int32_t at_w = g.w.take(&d), at_h = g.h.take(&d);
      T value{};
      if (inside && channel < g.channels_each)
        value = from[offset(g.from, 0, static_cast<int64_t>(group) * g.channels_each + channel, d, at_h, at_w)];
      tile[p * pitch + c] = value;
    }
    __syncthreads();
    const int32_t vectors = wide / kCount;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < high * vectors; i += kThreads) {
      const int32_t p = i / vectors, c = i % vectors * kCount;
      if (first_position + p >= g.positions || first_channel + c >= g.channels) continue;
      const int64_t at = static_cast<int64_t>(row) * g.positions + first_position + p;
      store_pack(static_cast<T*>(g.to) + at * g.channels + first_channel + c,
                 load_pack<T, kCount>(tile + p * pitch + c));
    }
    __syncthreads();
  }
}

}  // namespace

Status pack_channels(const TensorView& from, const PackPlan& plan, void* to) {
  const int64_t positions = from.size[kD] * from.size[kH] * from.size[kW], rows = plan.row_groups * plan.row_pitch;
  const int64_t channels = plan.channel_groups * plan.channel_pitch;
  constexpr int64_t kMost = 0x7fffffff - kTileElements;
  if (positions * rows == 0) return kOk;
  if (positions > kMost || channels > kMost || rows > kMost) return {"conv_igemm counts what it packs in 32 bits"};
  const int64_t wide = channels < kTileChannels ? channels : kTileChannels;
  const int64_t high = positions < kTileElements / wide ? positions : kTileElements / wide;
  const int64_t position_tiles = ceil_div(positions, high), tiles = position_tiles * ceil_div(channels, wide);
  if (tiles > kMostBlocksX) return {"conv_igemm: more tiles to pack than one grid has blocks"};
  Pack2d g{};
  g.from = from;
  g.to = to;
  g.w = Divider(from.size[kW]);
  g.h = Divider(from.size[kH]);
  g.position_tiles = Divider(position_tiles);
  g.tile_positions = Divider(high);
  g.tile_channels = Divider(wide);
  g.row_pitch = Divider(plan.row_pitch);
  g.channel_pitch = Divider(plan.channel_pitch);
  g.rows_each = static_cast<int32_t>(plan.rows);
  g.channels_each = static_cast<int32_t>(plan.channels);
  g.rows = static_cast<int32_t>(rows);
  g.positions = static_cast<int32_t>(positions);
  g.channels = static_cast<int32_t>(channels);
  g.channels_first = from.stride[kC] == 1 && from.size[kC] > 1;
  const int64_t bytes = dtype_bytes(from.dtype);
  const Grid grid{blocks(tiles, rows < kMostBlocksY ? rows : kMostBlocksY), threads(kThreads),
                  static_cast<size_t>(high * (wide + pack_count(from.dtype)) * bytes)};
  return bytes == 2 ? launch(pack_tiles<uint16_t>, grid, Pack2d(g)) : launch(pack_tiles<uint32_t>, grid, Pack2d(g));
}

}  // namespace convkit::cuda
