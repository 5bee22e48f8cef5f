// conv_igemm: wgrad on tensor cores, as an implicit GEMM whose reduction is split among blocks.
//
// Computes  dw[k,c,tap] = sum over n and positions of dy[n,k,o,q,r] x[n,c,o*stride - pad + t*dilation]: rows are
//           filters, columns taps and channels (channels fastest), the reduction all positions of all images
// Layout    the kernel reads dy and x with neighbouring channels, aligned to 16 bytes (channels_last); the launcher
//           packs others first (conv_pack.h). dw any
// Mapping   a block makes 128 x 128 or 64 x 64 sums of one group over one part of the positions (blockIdx.z): few tiles
//           have long reductions, and the parts fill the GPU. A second kernel adds the parts in their order, which the
//           problem alone decides: the same bits each time, without atomics
// Memory    four stages of 32 (16-bit types) or 16 positions, by cp.async; both operands lie across the reduction, and
//           are turned as filters are in dgrad. A thread's columns stay, and with them its tap and its channel; only
//           positions move on, and one thread works out for all where each lies (igemm_ahead.h). Parts are float32 in
//           a workspace, written and read once
// Limits    filters and channels of a group are multiples of 16 bytes, in dy and x or in their copies; positions of all
//           images together are counted in 32 bits
#include "cuda/conv_gather.h"
#include "cuda/conv_kernels.h"
#include "cuda/conv_pack.h"
#include "cuda/device/pack.h"
#include "cuda/igemm_ahead.h"
#include "cuda/reduce.h"

namespace convkit::cuda {
namespace {

constexpr int64_t kBlocksWanted = 264;           // two for each multiprocessor of the GPUs with the most
constexpr int kPartPack = 4, kAddThreads = 256;  // of add_parts
constexpr int64_t kStepsWorth = 16;              // what a part should have, to be worth the traffic of its sums

struct IgemmWgrad {
  TensorView dy, x, dw;
  float* parts;  // [part][filter of all groups][column]
  Spatial in, stride, pad, dilation;
  Divider out_w, out_h, out_d, channels, taps_w, taps_h, column_tiles;
  int64_t filters;                             // of all groups
  int32_t positions;                           // of all images
  int32_t group_k, group_c, pitch_k, pitch_c;  // of a group, and from group to group in dy and in x
  int32_t columns, steps, steps_each;
};

// What a column is.
struct Column {
  int32_t channel, tap[3];

  CONVKIT_DEVICE Column(const IgemmWgrad& g, int32_t column) {
    channel = g.channels.take(&column);
    tap[2] = g.taps_w.take(&column);
    tap[1] = g.taps_h.take(&column);
    tap[0] = column;
  }
};

// Where a position lies in dy, and in x the first of those that it meets; the latter without padding.
struct alignas(kPackBytes) Position {
  int64_t dy = 0, x = 0;
  int32_t moved[3] = {}, exists = 0;

  Position() = default;
  CONVKIT_DEVICE Position(const IgemmWgrad& g, int32_t number) {
    exists = number < g.positions;
    int32_t at[3] = {};
    at[2] = g.out_w.take(&number);
    at[1] = g.out_h.take(&number);
    at[0] = g.out_d.take(&number);
    dy = number * g.dy.stride[kN];
    x = number * g.x.stride[kN];
    CONVKIT_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      moved[axis] = at[axis] * static_cast<int32_t>(g.stride[axis]);
      dy += at[axis] * g.dy.stride[kD + axis];
      x += moved[axis] * g.x.stride[kD + axis];
    }
  }
};

// What a thread brings of both operands: always the same vector of filters and the same of channels of a tap, for
// kRowsEach positions of a step.
template <typename Tile>
class Positions {
  using T = typename Tile::Element;
  static_assert(Tile::kM == Tile::kN, "one place of a thread serves both operands");
  static constexpr int kVectors = Tile::A::kVectors, kApart = Tile::kThreads / kVectors;
  static constexpr int kRowsEach = Tile::A::kRows / kApart;
  using Ahead = RowsAhead<Position, Tile::A::kRows, Tile::kThreads>;

 public:
  static constexpr size_t kSharedBytes = Ahead::kBytes;
  CONVKIT_DEVICE Positions(const IgemmWgrad& g, int32_t group, int32_t row, int32_t column, int32_t step, void* memory)
      : g_(g),
        first_(step * kStep<T>),
        ahead_(memory, [&](int32_t number) { return Position(g_, first_ + number); }),
        vector_(static_cast<int>(threadIdx.x) % kVectors),
        row_(static_cast<int>(threadIdx.x) / kVectors) {
    row += vector_ * kPackCount<T>;
    column += vector_ * kPackCount<T>;
    filters_ = row < g.group_k;
    channels_ = column < g.columns;
    dy_ = data<T>(g.dy) + (static_cast<int64_t>(group) * g.pitch_k + row) * g.dy.stride[kC];
    const Column at(g, column);
    x_ = data<T>(g.x) + (static_cast<int64_t>(group) * g.pitch_c + at.channel) * g.x.stride[kC];
    CONVKIT_UNROLL
    for (int i = 0; i < 3; ++i) {
      origin_[i] = static_cast<int32_t>(at.tap[i] * g.dilation[i] - g.pad[i]);
      x_ += origin_[i] * g.x.stride[kD + i];
    }
  }

  CONVKIT_DEVICE void fetch(char* stage) {
    const Position* positions = ahead_.next([&](int32_t number) { return Position(g_, first_ + number); });
    CONVKIT_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      const Position at = positions[row_ + i * kApart];
      bool inside = at.exists != 0 && channels_;
      CONVKIT_UNROLL
      for (int axis = 0; axis < 3; ++axis)  // unsigned: one comparison for both ends
        inside = inside && static_cast<uint32_t>(at.moved[axis] + origin_[axis]) < static_cast<uint32_t>(g_.in[axis]);
      copy_async_16(stage + Tile::A::place(row_ + i * kApart, vector_), dy_ + at.dy, at.exists != 0 && filters_);
      copy_async_16(stage + Tile::kBytesA + Tile::B::place(row_ + i * kApart, vector_), x_ + at.x, inside);
    }
  }

 private:
  const IgemmWgrad& g_;
  int32_t first_;  // position of the part
  Ahead ahead_;
  int vector_, row_;
  int32_t origin_[3];
  bool filters_, channels_;
  const T *dy_, *x_;
};

template <typename Tile, typename Sync>
__global__ void __launch_bounds__(Tile::kThreads, kResident<Tile, false>) igemm_wgrad(const IgemmWgrad g) {
  char* stages = static_cast<char*>(shared_memory());
  int32_t row_tile = static_cast<int32_t>(blockIdx.x);
  const int32_t first_column = g.column_tiles.take(&row_tile) * Tile::kN, first_row = row_tile * Tile::kM;
  const int32_t group = static_cast<int32_t>(blockIdx.y), part = static_cast<int32_t>(blockIdx.z);
  const int32_t step = part * g.steps_each, left = g.steps - step;
  Positions<Tile> positions(g, group, first_row, first_column, step, stages + kStagesBytes<Tile, Sync>);
  Sums<Tile> sums;
  accumulate<Tile, Sync>([&](char* stage) { positions.fetch(stage); }, left < g.steps_each ? left : g.steps_each,
                         stages, sums);

  float* stage = reinterpret_cast<float*>(stages);
  stage_sums(sums, stage);
  constexpr int kPacks = Tile::kN / kPartPack;
  const int column = static_cast<int>(threadIdx.x) % kPacks * kPartPack;
  if (first_column + column >= g.columns) return;
  for (int row = static_cast<int>(threadIdx.x) / kPacks; row < Tile::kM && first_row + row < g.group_k;
       row += Tile::kThreads / kPacks) {
    const int64_t filter = static_cast<int64_t>(group) * g.group_k + first_row + row;
    store_pack(g.parts + (part * g.filters + filter) * g.columns + first_column + column,
               load_pack<float, kPartPack>(staged<Tile>(stage, row, column)));
  }
}

// dw from its parts: rows of threads take parts in turn (reduce.h), kPartPack neighbouring columns of a filter each.
template <typename T>
__global__ void __launch_bounds__(kAddThreads) add_parts(const IgemmWgrad g, const int32_t parts, const int32_t lanes) {
  const int64_t packs = g.columns / kPartPack, count = packs * g.filters;
  const int32_t thread = static_cast<int32_t>(threadIdx.x), row = thread / lanes;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * lanes + (thread & (lanes - 1));
  const int64_t filter = i / packs;
  const int32_t column = static_cast<int32_t>(i % packs) * kPartPack;
  const float* from = g.parts + filter * g.columns + column;
  float sum[kPartPack] = {};
  for (int32_t part = row; part < parts && i < count; part += kAddThreads / lanes) {
    const Pack<float, kPartPack> pack = load_pack<float, kPartPack>(from + part * g.filters * g.columns);
    CONVKIT_UNROLL
    for (int j = 0; j < kPartPack; ++j) sum[j] += pack.v[j];
  }
  sum_rows(sum, lanes, static_cast<float*>(shared_memory()));
  if (row > 0 || i >= count) return;
  const Column at(g, column);
  T* to = data<T>(g.dw) + offset(g.dw, filter, at.channel, at.tap[0], at.tap[1], at.tap[2]);
  CONVKIT_UNROLL
  for (int j = 0; j < kPartPack; ++j)
    if (at.channel + j < g.group_c) store(to + j * g.dw.stride[kC], sum[j]);
}

template <typename Tile>
Status launch_tile(const ConvProblem& p, IgemmWgrad g) {
  using T = typename Tile::Element;
  const int64_t columns = ceil_div(g.columns, Tile::kN), tiles = ceil_div(g.group_k, Tile::kM) * columns;
  if (tiles > kMostBlocksX || p.groups > kMostBlocksY) return {"conv_igemm: more tiles than one grid has blocks"};
  g.column_tiles = Divider(columns);
  g.steps = static_cast<int32_t>(ceil_div(g.positions, kStep<T>));
  // As many parts as fill the GPU, none of them short.
  int64_t parts = kBlocksWanted / (tiles * p.groups);
  if (parts > g.steps / kStepsWorth) parts = g.steps / kStepsWorth;
  if (parts < 1) parts = 1;
  g.steps_each = static_cast<int32_t>(ceil_div(g.steps, parts));
  if (g.steps_each > 0) parts = ceil_div(g.steps, g.steps_each);

  const Workspace workspace(parts * g.filters * g.columns * static_cast<int64_t>(sizeof(float)));
  if (!workspace.status().ok()) return workspace.status();
  g.parts = workspace.as<float>();
  const Grid grid{blocks(tiles, p.groups, parts), threads(Tile::kThreads),
                  kStagesBytes<Tile, Pipeline> + Positions<Tile>::kSharedBytes};
  const Status status = launch(igemm_wgrad<Tile, Pipeline>, grid, IgemmWgrad(g));
  if (!status.ok()) return status;
  const int64_t lanes = lanes_of_rows(kAddThreads, parts);
  const Grid adders{blocks(ceil_div(g.filters * g.columns / kPartPack, lanes)), threads(kAddThreads),
                    kAddThreads * kPartPack * sizeof(float)};
  return launch(add_parts<T>, adders, IgemmWgrad(g), static_cast<int32_t>(parts), static_cast<int32_t>(lanes));
}

template <typename P>
Status launch_products(const ConvProblem& p, const IgemmWgrad& g) {
  if (g.group_k > kSmallTile && g.columns > kSmallTile)
    return launch_tile<LargeTile<P, AcrossReduction, AcrossReduction>>(p, g);
  return launch_tile<SmallTile<P, AcrossReduction, AcrossReduction>>(p, g);
}

Status run(const ConvProblem& p, bool tf32, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  if (numel(dw) == 0) return kOk;
  const auto divider = [](int64_t size) { return Divider(size > 0 ? size : 1); };
  const PackPlan of_dy = pack_activations(p, p.k, dy.dtype), of_x = pack_activations(p, p.c, x.dtype);
  const PackedOperand packed_dy(dy, of_dy), packed_x(x, of_x);
  for (const Status status : {packed_dy.status(), packed_x.status()})
    if (!status.ok()) return status;
  IgemmWgrad g{};
  g.dy = packed_dy.view();
  g.x = packed_x.view();
  g.dw = dw;
  g.in = p.in;
  g.stride = p.stride;
  g.pad = p.pad_before;
  g.dilation = p.dilation;
  g.out_w = divider(p.out[2]);
  g.out_h = divider(p.out[1]);
  g.out_d = divider(p.out[0]);
  g.group_k = static_cast<int32_t>(p.k / p.groups);
  g.group_c = static_cast<int32_t>(p.c / p.groups);
  g.pitch_k = static_cast<int32_t>(of_dy.channel_pitch);
  g.pitch_c = static_cast<int32_t>(of_x.channel_pitch);
  g.channels = Divider(g.pitch_c);
  g.taps_w = Divider(p.filter[2]);
  g.taps_h = Divider(p.filter[1]);
  g.filters = p.k;
  g.columns = static_cast<int32_t>(volume(p.filter) * g.pitch_c);
  g.positions = static_cast<int32_t>(p.n * volume(p.out));
  switch (dw.dtype) {
    case DType::kBFloat16: return launch_products<Products<bfloat16, 1>>(p, g);
    case DType::kFloat16: return launch_products<Products<float16, 1>>(p, g);
    default: return tf32 ? launch_products<Products<float, 1>>(p, g) : launch_products<Products<float, 3>>(p, g);
  }
}

}  // namespace

Status conv_wgrad_igemm(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return run(p, false, dy, x, dw);
}

Status conv_wgrad_igemm_tf32(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return run(p, true, dy, x, dw);
}

}  // namespace convkit::cuda
