// conv_pack: a tensor of any strides as the operand of an implicit GEMM.
//
// Computes  to[row][position][channel] = from, with zeros behind the rows and channels of each group (conv_pack.h)
// Layout    from: any strides; to: dense, channels fastest, whole vectors of 16 bytes of them
// Mapping   a block moves a tile of positions x channels of one row through shared memory; rows lie along blockIdx.y,
//           which goes round. Reading, neighbouring threads take neighbouring positions, or channels where these are
//           neighbours in memory, and each stays at one of them while it goes over the others, so that most divisions
//           are made once; writing, they take vectors of channels.
// Memory    each element is read once and written once, both coalesced; kBatch reads of a thread are under way at once
// Limits    types of 2 and 4 bytes; 2^31 positions and channels per row, and elements that a row spans in memory
#include "cuda/conv_pack.h"

namespace convkit::cuda {
namespace {

constexpr int kThreads = 256, kBatch = 8;
constexpr int64_t kTileElements = 4096, kTileChannels = 64;

struct Pack2d {
  TensorView from;
  void* to;
  Divider w, h, position_tiles;  // position -> (d, h, w); blockIdx.x -> (tile of channels, tile of positions)
  int32_t tile_positions, tile_channels, lanes;  // lanes: neighbouring threads that read, a power of two
  Divider tile_vectors;
  Divider row_pitch, channel_pitch;   // row of `to` -> (group, row), channel -> (group, channel)
  int32_t rows_each, channels_each;   // of a group, in `from`
  int32_t rows, positions, channels;  // of `to`
  bool channels_first;                // of neighbouring threads

  // Where an element of `to` lies in an image or filter of `from`, or -1: its part by position, and by channel. 32 bits
  // hold both, which pack_reaches sees to.
  CONVKIT_DEVICE int32_t of_position(int32_t position) const {
    if (position >= positions) return -1;
    const int32_t at_w = w.take(&position), at_h = h.take(&position);
    return position * stride(kD) + at_h * stride(kH) + at_w * stride(kW);
  }
  CONVKIT_DEVICE int32_t of_channel(int32_t group) const {
    if (group >= channels) return -1;
    const int32_t channel = channel_pitch.take(&group);
    return channel < channels_each ? (group * channels_each + channel) * stride(kC) : -1;
  }
  CONVKIT_DEVICE int32_t stride(Dim dim) const { return static_cast<int32_t>(from.stride[dim]); }
};

// tile[position * pitch + channel] = from. kAlongC: what a thread stays at is a channel.
template <bool kAlongC, typename T>
CONVKIT_DEVICE void read_tile(const Pack2d& g, const T* from, bool exists, int32_t first_position,
                              int32_t first_channel, int32_t pitch, T* tile) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & (g.lanes - 1);
  const int32_t row = static_cast<int32_t>(threadIdx.x) / g.lanes, rows = kThreads / g.lanes;
  const int32_t near = kAlongC ? g.tile_channels : g.tile_positions, far = kAlongC ? g.tile_positions : g.tile_channels;
  const int32_t near_step = kAlongC ? 1 : pitch, far_step = kAlongC ? pitch : 1;
  for (int32_t i = lane; i < near; i += g.lanes) {
    const int32_t own = kAlongC ? g.of_channel(first_channel + i) : g.of_position(first_position + i);
    for (int32_t first = row; first < far; first += rows * kBatch) {
      T value[kBatch];
      CONVKIT_UNROLL
      for (int j = 0; j < kBatch; ++j) {
        const int32_t k = first + j * rows;
        const int32_t other = kAlongC ? g.of_position(first_position + k) : g.of_channel(first_channel + k);
        value[j] = T{};
        if (exists && k < far && own >= 0 && other >= 0) value[j] = from[own + other];
      }
      CONVKIT_UNROLL
      for (int j = 0; j < kBatch; ++j)
        if (first + j * rows < far) tile[i * near_step + (first + j * rows) * far_step] = value[j];
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) pack_tiles(const Pack2d g) {
  constexpr int kCount = kPackCount<T>;
  T* tile = static_cast<T*>(shared_memory());
  const int32_t wide = g.tile_channels, pitch = wide + kCount, high = g.tile_positions;
  int32_t channel_tile = static_cast<int32_t>(blockIdx.x);
  const int32_t first_position = g.position_tiles.take(&channel_tile) * high, first_channel = channel_tile * wide;
  for (int32_t row = static_cast<int32_t>(blockIdx.y); row < g.rows; row += static_cast<int32_t>(gridDim.y)) {
    int32_t row_group = row;
    const int32_t of_group = g.row_pitch.take(&row_group);
    const T* from = data<T>(g.from) + (static_cast<int64_t>(row_group) * g.rows_each + of_group) * g.from.stride[kN];
    if (g.channels_first)
      read_tile<true>(g, from, of_group < g.rows_each, first_position, first_channel, pitch, tile);
    else
      read_tile<false>(g, from, of_group < g.rows_each, first_position, first_channel, pitch, tile);
    __syncthreads();
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < high * g.tile_vectors.divisor(); i += kThreads) {
      int32_t p = i;
      const int32_t c = g.tile_vectors.take(&p) * kCount;
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
  if (positions > kMost || channels > kMost || rows > kMost || !pack_reaches(from))
    return {"conv_igemm counts what it packs in 32 bits"};
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
  g.tile_positions = static_cast<int32_t>(high);
  g.tile_channels = static_cast<int32_t>(wide);
  g.tile_vectors = Divider(wide / pack_count(from.dtype));
  g.row_pitch = Divider(plan.row_pitch);
  g.channel_pitch = Divider(plan.channel_pitch);
  g.rows_each = static_cast<int32_t>(plan.rows);
  g.channels_each = static_cast<int32_t>(plan.channels);
  g.rows = static_cast<int32_t>(rows);
  g.positions = static_cast<int32_t>(positions);
  g.channels = static_cast<int32_t>(channels);
  g.channels_first = from.stride[kC] == 1 && from.size[kC] > 1;
  // Threads that the near dimension keeps busy, and more where the far one is shorter than a batch for each of the
  // rest.
  const int64_t near = g.channels_first ? wide : high, far = g.channels_first ? high : wide;
  g.lanes = 8;
  while (g.lanes < near && g.lanes < kThreads && (g.lanes < 64 || kThreads / g.lanes * kBatch > far)) g.lanes *= 2;
  const int64_t bytes = dtype_bytes(from.dtype);
  const Grid grid{blocks(tiles, rows < kMostBlocksY ? rows : kMostBlocksY), threads(kThreads),
                  static_cast<size_t>(high * (wide + pack_count(from.dtype)) * bytes)};
  return bytes == 2 ? launch(pack_tiles<uint16_t>, grid, Pack2d(g)) : launch(pack_tiles<uint32_t>, grid, Pack2d(g));
}

}  // namespace convkit::cuda
