// fprop and dgrad as one implicit GEMM: what conv_igemm_fprop.cu and conv_igemm_dgrad.cu instantiate.
//
// Rows are the positions of a result's phase in all images, columns the result channels of a group, the reduction runs
// over the taps of the phase with the source channels of a tap fastest. No matrix of patches exists: a thread computes
// where its 16 bytes of a patch lie in the source, and cp.async brings them, or zeros for what is padding.
#pragma once

#include "cuda/bn_kernels.h"
#include "cuda/conv_igemm_store.h"
#include "cuda/conv_pack.h"
#include "cuda/igemm_ahead.h"

namespace convkit::cuda {

constexpr int32_t kNowhere = -(1 << 30);  // an origin from which no move leads inside

CONVKIT_DEVICE Row find_row(const IgemmGather& p, const Phase* phase, int64_t number, int32_t group) {
  const Gather& g = p.gather;
  Row row{0, 0, 0, {kNowhere, kNowhere, kNowhere}, 0};
  const int64_t of_image = static_cast<int64_t>(phase[0].length) * phase[1].length * phase[2].length;
  if (number >= p.images * of_image) return row;
  int32_t rest = static_cast<int32_t>(number);
  row.exists = 1;
  int64_t where[3];
  CONVKIT_UNROLL
  for (int i = 2; i >= 0; --i) {
    const int32_t position = rest % phase[i].length;
    rest /= phase[i].length;
    row.at[i] = position * phase[i].step + phase[i].src;
    where[i] = static_cast<int64_t>(position) * g.axis[i].phases + phase[i].number;
    row.source += row.at[i] * g.source.stride[kD + i];
  }
  const int64_t channel = static_cast<int64_t>(group) * g.result_channels;
  row.source += rest * g.source.stride[kN] + static_cast<int64_t>(group) * g.source_channels * g.source.stride[kC];
  row.result = offset(g.result, rest, channel, where[0], where[1], where[2]);
  row.residual = offset(g.epilogue.residual, rest, channel, where[0], where[1], where[2]);
  return row;
}

// A place in the reduction.
struct Place {
  int32_t channel, tap[3];

  // Moves on by `by` channels; whether that leads to another tap.
  CONVKIT_DEVICE bool advance(int32_t by, const Gather& g, const Phase* phase) {
    channel += by;
    if (channel < g.source_channels) return false;
    while (channel >= g.source_channels) {
      channel -= g.source_channels;
      if (++tap[2] < phase[2].count) continue;
      tap[2] = 0;
      if (++tap[1] < phase[1].count) continue;
      tap[1] = 0;
      ++tap[0];
    }
    return true;
  }
  CONVKIT_DEVICE bool exists(const Phase* phase) const { return tap[0] < phase[0].count; }
  // Elements from a filter's start to the tap.
  CONVKIT_DEVICE int64_t filter_offset(const Gather& g, const Phase* phase) const {
    int64_t moved = 0;
    CONVKIT_UNROLL
    for (int i = 0; i < 3; ++i) moved += (phase[i].tap + tap[i] * phase[i].tap_step) * g.w_tap[i];
    return moved;
  }
};

// The patches: a thread brings the same vector of the step for kRowsEach rows.
template <typename Tile>
class Patches {
  using T = typename Tile::Element;
  using A = typename Tile::A;
  static constexpr int kRowsEach = Tile::kM * kStepVectors / Tile::kThreads, kApart = Tile::kThreads / kStepVectors;

 public:
  CONVKIT_DEVICE Patches(const Gather& gather, const Phase* phase, const Row* rows)
      : g_(gather), phase_(phase), rows_(rows), vector_(static_cast<int>(threadIdx.x) % kStepVectors) {
    const int first = static_cast<int>(threadIdx.x) / kStepVectors;
    CONVKIT_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      const Row& row = rows_[first + i * kApart];
      window_[i] = data<T>(g_.source) + row.source;
    }
    place_ = Place{0, {0, 0, 0}};
    place_.advance(vector_ * kPackCount<T>, g_, phase_);
    enter_tap();
  }

  CONVKIT_DEVICE void fetch(char* stage) {
    const int first = static_cast<int>(threadIdx.x) / kStepVectors;
    CONVKIT_UNROLL
    for (int i = 0; i < kRowsEach; ++i)
      copy_async_16(stage + A::place(first + i * kApart, vector_), window_[i] + moved_ + place_.channel,
                    (inside_ >> i & 1u) != 0);
  }
  CONVKIT_DEVICE void advance() {
    if (place_.advance(kStep<T>, g_, phase_)) enter_tap();
  }
  CONVKIT_DEVICE const Place& place() const { return place_; }

 private:
  // What all channels of a tap share: how far it lies from the windows' origins, and in which rows inside the source.
  CONVKIT_DEVICE void enter_tap() {
    const int first = static_cast<int>(threadIdx.x) / kStepVectors;
    moved_ = 0;
    inside_ = place_.exists(phase_) ? (1u << kRowsEach) - 1 : 0;
    CONVKIT_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      const int32_t move = place_.tap[axis] * phase_[axis].src_step;
      moved_ += move * g_.source.stride[kD + axis];
      CONVKIT_UNROLL
      for (int i = 0; i < kRowsEach; ++i)  // unsigned: one comparison for both ends
        if (static_cast<uint32_t>(rows_[first + i * kApart].at[axis] + move) >=
            static_cast<uint32_t>(phase_[axis].source))
          inside_ &= ~(1u << i);
    }
  }

  const Gather& g_;
  const Phase* phase_;
  const Row* rows_;
  int vector_;
  const T* window_[kRowsEach];
  Place place_;
  int64_t moved_;
  unsigned inside_;  // a bit per row
};

// The filters of fprop: a row per result channel, the same vectors of the step as the thread's patches.
template <typename Tile>
class FilterRows {
  using T = typename Tile::Element;
  static constexpr int kRowsEach = Tile::kN * kStepVectors / Tile::kThreads, kApart = Tile::kThreads / kStepVectors;

 public:
  static constexpr bool kForward = true;
  static constexpr size_t kSharedBytes = 0;
  CONVKIT_DEVICE FilterRows(const IgemmGather& p, const Phase* phase, const T* w, int32_t channel, void*)
      : g_(p.gather), phase_(phase), first_(channel + static_cast<int>(threadIdx.x) / kStepVectors) {
    w_ = w + first_ * g_.w_result;
  }
  CONVKIT_DEVICE void fetch(char* operand, const Place& place) {
    const int first = static_cast<int>(threadIdx.x) / kStepVectors;
    const T* from = w_ + place.filter_offset(g_, phase_) + place.channel;
    const bool exists = place.exists(phase_);
    CONVKIT_UNROLL
    for (int i = 0; i < kRowsEach; ++i)
      copy_async_16(operand + Tile::B::place(first + i * kApart, static_cast<int>(threadIdx.x) % kStepVectors),
                    from + i * kApart * g_.w_result, exists && first_ + i * kApart < g_.result_channels);
  }

 private:
  const Gather& g_;
  const Phase* phase_;
  int32_t first_;
  const T* w_;
};

// The filters of dgrad: a row per source channel, whose result channels are neighbours in memory.
template <typename Tile>
class FilterColumns {
  using T = typename Tile::Element;
  static constexpr int kVectors = Tile::B::kVectors, kApart = Tile::kThreads / kVectors;
  static constexpr int kRowsEach = Tile::B::kRows / kApart;
  using Offsets = RowsAhead<int64_t, Tile::B::kRows, Tile::kThreads>;  // of rows; -1 behind the last

 public:
  static constexpr bool kForward = false;
  static constexpr size_t kSharedBytes = Offsets::kBytes;
  CONVKIT_DEVICE FilterColumns(const IgemmGather& p, const Phase* phase, const T* w, int32_t channel, void* memory)
      : p_(p), phase_(phase), offsets_(memory, [&](int32_t row) { return offset_of(row); }) {
    channel += static_cast<int>(threadIdx.x) % kVectors * kPackCount<T>;
    exists_ = channel < p.gather.result_channels;
    w_ = w + channel;
  }
  CONVKIT_DEVICE void fetch(char* operand, const Place&) {
    const int first = static_cast<int>(threadIdx.x) / kVectors, vector = static_cast<int>(threadIdx.x) % kVectors;
    const int64_t* offsets = offsets_.next([&](int32_t row) { return offset_of(row); });
    CONVKIT_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      const int64_t offset = offsets[first + i * kApart];
      copy_async_16(operand + Tile::B::place(first + i * kApart, vector), w_ + offset, exists_ && offset >= 0);
    }
  }

 private:
  // From a vector of columns in the group's first filter to the same in the row's filter and tap.
  CONVKIT_DEVICE int64_t offset_of(int32_t row) const {
    int32_t rest = row;
    const int32_t channel = p_.source_channels.take(&rest);
    Place place{channel, {}};
    CONVKIT_UNROLL
    for (int i = 2; i > 0; --i) {
      const int32_t count = phase_[i].count > 0 ? phase_[i].count : 1;  // without taps no step reads this
      place.tap[i] = rest % count;
      rest /= count;
    }
    place.tap[0] = rest;
    return place.exists(phase_) ? place.filter_offset(p_.gather, phase_) + channel * p_.gather.w_source : -1;
  }

  const IgemmGather& p_;
  const Phase* phase_;
  Offsets offsets_;
  bool exists_;
  const T* w_;
};

template <typename Tile, template <typename> class Filters, typename Sync>
__global__ void __launch_bounds__(Tile::kThreads, kResident<Tile, Filters<Tile>::kForward>) igemm(const IgemmGather p) {
  using T = typename Tile::Element;
  const Gather& g = p.gather;
  char* stages = static_cast<char*>(shared_memory());
  Row* rows = reinterpret_cast<Row*>(stages + kStagesBytes<Tile, Sync>);
  char* ahead = reinterpret_cast<char*>(rows + Tile::kM);
  Phase* phase = reinterpret_cast<Phase*>(ahead + Filters<Tile>::kSharedBytes);
  find_phases(g, phase);

  int32_t tile = static_cast<int32_t>(blockIdx.x);
  const int32_t group = static_cast<int32_t>(blockIdx.y), channel = p.column_tiles.take(&tile) * Tile::kN;
  const int64_t first = static_cast<int64_t>(tile) * Tile::kM;
  if (first >= p.images * phase[0].length * phase[1].length * phase[2].length) return;  // not in this phase
  for (int r = static_cast<int>(threadIdx.x); r < Tile::kM; r += Tile::kThreads)
    rows[r] = find_row(p, phase, first + r, group);
  __syncthreads();

  Patches<Tile> patches(g, phase, rows);
  Filters<Tile> filters(p, phase, static_cast<const T*>(g.w) + group * g.w_group, channel, ahead);
  const int64_t depth = static_cast<int64_t>(phase[0].count) * phase[1].count * phase[2].count * g.source_channels;
  Sums<Tile> sums;
  accumulate<Tile, Sync>(
      [&](char* stage) {
        patches.fetch(stage);
        filters.fetch(stage + Tile::kBytesA, patches.place());
        patches.advance();
      },
      static_cast<int32_t>((depth + kStep<T> - 1) / kStep<T>), stages, sums);
  constexpr bool kStatistics = Filters<Tile>::kForward;  // asked of fprop alone
  float* stage = reinterpret_cast<float*>(stages);
  stage_sums(sums, stage);
  if (p.packed_result)
    store_vectors<Tile, kStatistics>(p, rows, stage, group, channel);
  else
    store_elements<Tile, kStatistics>(p, rows, stage, group, channel);
  if (!kStatistics || p.parts == nullptr) return;
  __syncthreads();  // all stored values stand in the stage, and the rows' place is free: nobody looks there any more
  const int64_t left = p.images * phase[0].length * phase[1].length * phase[2].length - first;
  store_statistics<Tile>(p, stage, reinterpret_cast<float*>(rows), tile,
                         static_cast<int32_t>(left < Tile::kM ? left : Tile::kM), group, channel);
}

// `statistics`: nullptr, or where those of the result's channels go.
template <typename Tile, template <typename> class Filters>
Status launch_tile(const ConvProblem& p, IgemmGather g, const ChannelStatistics* statistics) {
  static_assert(Tile::kThreads * sizeof(float) <= Tile::kM * sizeof(Row), "the rows' place serves as scratch memory");
  const int64_t rows = ceil_div(p.n * positions_of_phase(g.gather), Tile::kM);
  const int64_t columns = ceil_div(g.gather.result_channels, Tile::kN);
  if (rows * columns > kMostBlocksX || p.groups > kMostBlocksY || g.gather.phases > kMostBlocksY)
    return {"conv_igemm: more tiles than one grid has blocks"};
  g.column_tiles = Divider(columns);
  const Grid grid{
      blocks(rows * columns, p.groups, g.gather.phases), threads(Tile::kThreads),
      kStagesBytes<Tile, Pipeline> + Tile::kM * sizeof(Row) + Filters<Tile>::kSharedBytes + 3 * sizeof(Phase)};
  const int64_t channels = p.groups * g.gather.result_channels;
  const Workspace parts(statistics != nullptr ? rows * 3 * channels * static_cast<int64_t>(sizeof(float)) : 0);
  if (!parts.status().ok()) return parts.status();
  g.parts = parts.as<float>();
  const Status status = launch(igemm<Tile, Filters, Pipeline>, grid, IgemmGather(g));
  if (statistics == nullptr || !status.ok()) return status;
  return merge_tile_statistics(g.parts, {p.n * positions_of_phase(g.gather), Tile::kM, rows, channels}, *statistics);
}

template <typename P, template <typename, int> class OperandB, template <typename> class Filters>
Status launch_products(const ConvProblem& p, const IgemmGather& g, const ChannelStatistics* statistics) {
  const int64_t large = ceil_div(p.n * positions_of_phase(g.gather), kLargeTile) *
                        ceil_div(g.gather.result_channels, kLargeTile) * p.groups * g.gather.phases;
  if (g.gather.result_channels > kSmallTile && large >= kEnoughBlocks)
    return launch_tile<LargeTile<P, AlongReduction, OperandB>, Filters>(p, g, statistics);
  return launch_tile<SmallTile<P, AlongReduction, OperandB>, Filters>(p, g, statistics);
}

// `source`, `result`: x and y, or dy and dx. Operands that have no vectors of channels are packed first.
template <template <typename, int> class OperandB, template <typename> class Filters>
Status run_igemm(const ConvProblem& p, bool adjoint, bool tf32, const TensorView& source, const TensorView& w,
                 const Epilogue& e, const TensorView& result, const ChannelStatistics* statistics = nullptr) {
  if (numel(result) == 0) return statistics != nullptr ? bn_stats(result, *statistics) : kOk;
  const PackPlan of_source = pack_activations(p, adjoint ? p.k : p.c, source.dtype);
  const PackPlan of_filters = pack_filters(p, adjoint, w.dtype);
  const PackedOperand sources(source, of_source), filters(w, of_filters);
  for (const Status status : {sources.status(), filters.status()})
    if (!status.ok()) return status;
  IgemmGather g{make_gather(p, adjoint, sources.view(), filters.view(), e, result), {}, {}, p.n, false, false, nullptr};
  g.gather.source_channels = static_cast<int32_t>(of_source.channel_pitch);
  g.source_channels = Divider(of_source.channel_pitch);
  g.gather.w_group = of_filters.row_pitch * filters.view().stride[kN];
  const int64_t vector = pack_count(result.dtype);
  const bool whole = g.gather.result_channels % vector == 0;
  g.packed_result = whole && packs_fit(result, vector, dtype_bytes(result.dtype));
  g.packed_residual = whole && e.residual.data != nullptr && packs_fit(e.residual, vector, dtype_bytes(result.dtype));
  switch (result.dtype) {
    case DType::kBFloat16: return launch_products<Products<bfloat16, 1>, OperandB, Filters>(p, g, statistics);
    case DType::kFloat16: return launch_products<Products<float16, 1>, OperandB, Filters>(p, g, statistics);
    default:
      return tf32 ? launch_products<Products<float, 1>, OperandB, Filters>(p, g, statistics)
                  : launch_products<Products<float, 3>, OperandB, Filters>(p, g, statistics);
  }
}

}  // namespace convkit::cuda
