// From finished tiles to the result: epilogue and store of conv_gemm.
#pragma once

#include "core/conv_epilogue.h"
#include "cpu/activation_lanes.h"
#include "cpu/conv_gemm_pixels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Lanes of `mask` of p[lane * step].
template <typename T>
CONVKIT_INLINE vector_t<accumulate_t<T>> gather_lanes(const T* p, int64_t step, uint32_t mask) {
#if CONVKIT_AVX512
  if (step == 1) return load_lanes(p, mask);
#endif
  vector_t<accumulate_t<T>> v{};
  for (; mask != 0; mask &= mask - 1) v[__builtin_ctz(mask)] = load(p + __builtin_ctz(mask) * step);
  return v;
}
template <typename T>
CONVKIT_INLINE void scatter_lanes(T* p, int64_t step, uint32_t mask, vector_t<accumulate_t<T>> v) {
#if CONVKIT_AVX512
  if (step == 1) return store_lanes(p, mask, v);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (step == 2) return store_even_lanes(p, mask, v);
  }
#endif
  using A = accumulate_t<T>;
  A lanes[kLanes<A>];
  store_vector(lanes, v);
  if (step == 1 && mask == lane_mask(0, kLanes<A>)) {
    for (int i = 0; i < kLanes<A>; ++i) store(p + i, lanes[i]);
    return;
  }
  for (; mask != 0; mask &= mask - 1) store(p + __builtin_ctz(mask) * step, lanes[__builtin_ctz(mask)]);
}

// Where one vector of a row of C goes, relative to the row's own offset.
struct Slot {
  int64_t out, residual;
  int64_t column;  // of the vector in C; a multiple of the vector length
  uint32_t mask;
};

// The result as an M x N matrix: element (i, j) of C stands at row offset i + slot offset of j.
// Channels run over rows (channels_in_rows) or over columns.
template <typename T>
struct ResultBlock {
  T* out;
  const T* residual;            // nullptr: none
  const T *scale, *bias;        // of the block's first channel; nullptr: none
  int64_t step, residual_step;  // between lanes
  bool channels_in_rows;
  const int64_t *row_out, *row_residual;
  const Slot* slots;  // those of panel i are [panel_slots[i], panel_slots[i + 1])
  const int64_t* panel_slots;
};

// The common case alone in its loop: neighbours in memory, and no epilogue but a bias.
template <typename T>
CONVKIT_INLINE void store_plain_tile(const ResultBlock<T>& r, int64_t row, int64_t height, int64_t panel,
                                     const accumulate_t<T>* tile) {
  using A = accumulate_t<T>;
  const int64_t begin = r.panel_slots[panel], end = r.panel_slots[panel + 1];
  for (int64_t i = 0; i < height; ++i) {
    const vector_t<A> bias = vector_t<A>{} + (r.bias != nullptr && r.channels_in_rows ? load(r.bias + row + i) : A(0));
    const A* line = tile + i * kPanel<A> - panel * kPanel<A>;
    T* out = r.out + r.row_out[row + i];
    for (int64_t s = begin; s < end; ++s) {
      const Slot& slot = r.slots[s];
      vector_t<A> v = load_vector(line + slot.column);
      if (r.bias != nullptr) v += r.channels_in_rows ? bias : gather_lanes(r.bias + slot.column, 1, slot.mask);
      scatter_lanes(out + slot.out, 1, slot.mask, v);
    }
  }
}

// Asks for the residual of the tile that is multiplied next, or else for where it goes: those lines are too far apart
// to be foreseen by the processor, and a store to a line that is not there reads it first. (Both at once are more than
// can be under way: layers with residual took 5 % longer.) The next tile is below the one at (row, panel) that has just
// been stored or, after the last row, at the top of the next panel; `rows` and `panels` are those of the block.
template <typename T>
CONVKIT_INLINE void fetch_next_tile(const ResultBlock<T>& r, int64_t row, int64_t height, int64_t rows, int64_t panel,
                                    int64_t panels) {
  const bool below = row + height < rows;
  if (!below && ++panel == panels) return;
  const int64_t first = below ? row + height : 0, begin = r.panel_slots[panel], end = r.panel_slots[panel + 1];
  for (int64_t m = first; m < minimum(first + height, rows); ++m)
    for (int64_t s = begin; s < end; ++s) {
      if (r.residual != nullptr)
        __builtin_prefetch(r.residual + r.row_residual[m] + r.slots[s].residual);
      else
        __builtin_prefetch(r.out + r.row_out[m] + r.slots[s].out, 1);
    }
}

template <typename T>
CONVKIT_INLINE void store_tile(const ResultBlock<T>& r, const Epilogue& e, int64_t row, int64_t height, int64_t panel,
                               const accumulate_t<T>* tile) {
  using A = accumulate_t<T>;
  if (r.step == 1 && r.scale == nullptr && r.residual == nullptr && e.activation == Activation::kIdentity)
    return store_plain_tile(r, row, height, panel, tile);
  for (int64_t i = 0; i < height; ++i) {
    const int64_t m = row + i;
    const A scale = r.channels_in_rows && r.scale != nullptr ? load(r.scale + m) : A(1);
    const A bias = r.channels_in_rows && r.bias != nullptr ? load(r.bias + m) : A(0);
    const A* line = tile + i * kPanel<A> - panel * kPanel<A>;
    for (int64_t s = r.panel_slots[panel]; s < r.panel_slots[panel + 1]; ++s) {
      const Slot& slot = r.slots[s];
      vector_t<A> v = load_vector(line + slot.column);
      if (r.channels_in_rows) {
        if (r.scale != nullptr) v *= scale;
        if (r.bias != nullptr) v += bias;
      } else {
        if (r.scale != nullptr) v *= gather_lanes(r.scale + slot.column, 1, slot.mask);
        if (r.bias != nullptr) v += gather_lanes(r.bias + slot.column, 1, slot.mask);
      }
      if (r.residual != nullptr)
        v += gather_lanes(r.residual + r.row_residual[m] + slot.residual, r.residual_step, slot.mask);
      scatter_lanes(r.out + r.row_out[m] + slot.out, r.step, slot.mask, AnyActivation{e.activation, e.alpha}.apply(v));
    }
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
