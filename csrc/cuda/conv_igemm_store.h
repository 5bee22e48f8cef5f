// What becomes of a tile's sums in fprop and dgrad: the epilogue, the stores, and the statistics of what was stored.
#pragma once

#include "core/conv_epilogue.h"
#include "cuda/bn_merge.h"
#include "cuda/conv_gather.h"
#include "cuda/device/pack.h"
#include "cuda/igemm_tile.h"

namespace convkit::cuda {

struct IgemmGather {
  Gather gather;
  Divider column_tiles;  // blockIdx.x -> (row tile, column tile), .y -> group, .z -> phase
  Divider source_channels;
  int64_t images;
  bool packed_result, packed_residual;  // whole vectors of channels can be moved
  float* parts;  // [row tile][shift, sum, sum of squares][channel] (bn_merge.h); nullptr: none are asked for
};

// A row of the tile: a position of the result, and of the window before it.
struct Row {
  int64_t source, result, residual;  // offsets of the group's first channel; source of a window's origin, maybe outside
  int32_t at[3];                     // the origin
  int32_t exists;
};

// The epilogue where whole vectors of channels can be stored: a thread takes one vector of several rows.
template <typename Tile, bool kStatistics>
CONVKIT_DEVICE void store_vectors(const IgemmGather& p, const Row* rows, float* stage, int32_t group, int32_t channel) {
  using T = typename Tile::Element;
  constexpr int kCount = kPackCount<T>, kVectors = Tile::kN / kCount;
  const Gather& g = p.gather;
  const Epilogue& e = g.epilogue;
  const int column = static_cast<int>(threadIdx.x) % kVectors * kCount;
  const int32_t first = channel + column;
  if (first >= g.result_channels) return;
  float scale[kCount], bias[kCount];
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) {
    const int64_t k = static_cast<int64_t>(group) * g.result_channels + first + j;
    scale[j] = e.scale != nullptr ? load(static_cast<const T*>(e.scale) + k) : 1.0f;
    bias[j] = e.bias != nullptr ? load(static_cast<const T*>(e.bias) + k) : 0.0f;
  }
  for (int r = static_cast<int>(threadIdx.x) / kVectors; r < Tile::kM; r += Tile::kThreads / kVectors) {
    const Row& row = rows[r];
    if (row.exists == 0) continue;
    float* sums = staged<Tile>(stage, r, column);
    float v[kCount];
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) v[j] = sums[j] * scale[j] + bias[j];
    if (e.residual.data != nullptr) {
      const T* from = data<T>(e.residual) + row.residual + first * e.residual.stride[kC];
      if (p.packed_residual) {
        const Pack<T, kCount> pack = load_pack<T, kCount>(from);
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) v[j] += load(pack.v + j);
      } else {
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) v[j] += load(from + j * e.residual.stride[kC]);
      }
    }
    if (is_piecewise(e.activation)) {
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) v[j] = activate_piecewise(e, v[j]);
    } else {  // in a loop over shared memory, which stays one: the other activations are long
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) sums[j] = v[j];
      CONVKIT_NO_UNROLL
      for (int j = 0; j < kCount; ++j) sums[j] = activate(e, sums[j]);
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) v[j] = sums[j];
    }
    Pack<T, kCount> pack;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) store(pack.v + j, v[j]);
    if (kStatistics && p.parts != nullptr) {  // which are those of what is stored
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j) sums[j] = load(pack.v + j);
    }
    store_pack(data<T>(g.result) + row.result + first * g.result.stride[kC], pack);
  }
}

// And where not: neighbouring threads store neighbours in memory, which are rows (planes) or channels.
template <typename Tile, bool kStatistics>
CONVKIT_DEVICE void store_elements(const IgemmGather& p, const Row* rows, float* stage, int32_t group,
                                   int32_t channel) {
  using T = typename Tile::Element;
  const Gather& g = p.gather;
  const bool along_rows = g.result.stride[kC] != 1;
  CONVKIT_NO_UNROLL
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kM * Tile::kN; i += Tile::kThreads) {
    const int r = along_rows ? i % Tile::kM : i / Tile::kN, column = along_rows ? i / Tile::kM : i % Tile::kN;
    const int64_t k = channel + column;
    if (rows[r].exists == 0 || k >= g.result_channels) continue;
    const float v =
        apply_epilogue<T>(g.epilogue, static_cast<int64_t>(group) * g.result_channels + k,
                          rows[r].residual + k * g.epilogue.residual.stride[kC], *staged<Tile>(stage, r, column));
    T* to = data<T>(g.result) + rows[r].result + k * g.result.stride[kC];
    store(to, v);
    if (kStatistics && p.parts != nullptr) *staged<Tile>(stage, r, column) = load(to);
  }
}

// The sums over each column of what its threads bring, in the order of the threads: to all of them. `scratch` holds a
// float per thread.
template <typename Tile>
CONVKIT_DEVICE float sum_column(float value, float* scratch) {
  const int column = static_cast<int>(threadIdx.x) % Tile::kN;
  scratch[threadIdx.x] = value;
  __syncthreads();  // what each thread brings is there
  float sum = scratch[column];
  CONVKIT_UNROLL
  for (int i = Tile::kN; i < Tile::kThreads; i += Tile::kN) sum += scratch[i + column];
  __syncthreads();  // and has been read: the scratch memory may be used again
  return sum;
}

// What bn_merge.h needs of each column of the tile's first `live` rows, from the values as they were stored: one of
// them, and the sums of what differs from it and of the squares of that. A barrier lies between the last change of
// `stage` and this, and no other block writes the tile's part.
template <typename Tile>
CONVKIT_DEVICE void store_statistics(const IgemmGather& p, float* stage, float* scratch, int64_t tile, int32_t live,
                                     int32_t group, int32_t channel) {
  static_assert(Tile::kThreads % Tile::kN == 0, "as many threads for every column");
  constexpr int kApart = Tile::kThreads / Tile::kN;
  const int column = static_cast<int>(threadIdx.x) % Tile::kN, begin = static_cast<int>(threadIdx.x) / Tile::kN;
  const float shift = finite_or_zero(*staged<Tile>(stage, 0, column));
  float first = 0, second = 0;  // neighbouring threads read neighbours in shared memory: all banks of it, each once
  for (int r = begin; r < live; r += kApart) {
    const float distance = *staged<Tile>(stage, r, column) - shift;
    first += distance;
    second += distance * distance;
  }
  first = sum_column<Tile>(first, scratch);
  second = sum_column<Tile>(second, scratch);
  const int32_t of_group = channel + column, each = p.gather.result_channels;
  if (begin != 0 || of_group >= each) return;
  const int64_t channels = static_cast<int64_t>(gridDim.y) * each;
  float* to = p.parts + tile * 3 * channels + static_cast<int64_t>(group) * each + of_group;
  to[0] = shift;
  to[channels] = first;
  to[2 * channels] = second;
}

}  // namespace convkit::cuda
