// Small planes as channels: the pooling templates of pool_channels.h on planes that are turned in scratch memory.
//
// Computes  what ChannelPool and ChannelGather compute
// Layout    every tensor's planes dense, one plane after the other at one distance (N C D H W)
// Mapping   a task turns some planes to positions x planes, as many as make a few vectors, runs the template on them
//           as if they were channels, and turns the result back. No vector is then part empty, however short rows are.
// Memory    the planes of a task and their results lie in scratch memory and stay in the cache.
// Limits    types that are computed as they are stored
#pragma once

#include "cpu/pool_channels.h"
#include "cpu/pool_columns.h"
#include "cpu/pool_staging.h"
#include "cpu/transpose.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Whether the planes of all images are dense and equally far from each other.
CONVKIT_INLINE bool planes_in_line(const TensorView& t) {
  if (t.data == nullptr) return true;
  int64_t step = 1;
  for (int dim = kW; dim >= kD; --dim) {
    if (t.size[dim] != 1 && t.stride[dim] != step) return false;
    step *= t.size[dim];
  }
  return t.size[kN] == 1 || t.size[kC] == 1 || t.stride[kN] == t.size[kC] * t.stride[kC];
}

// All planes of `t` as the channels of one image.
CONVKIT_INLINE TensorView one_image(const TensorView& t) {
  TensorView v = t;
  if (t.size[kC] == 1) v.stride[kC] = t.stride[kN];
  v.size[kC] = t.size[kN] * t.size[kC];
  v.size[kN] = 1;
  v.stride[kN] = 0;
  v.stride[kW] = 1;  // of one column it may be anything
  return v;
}

// `t`'s planes at `block`, positions x planes.
template <typename E>
CONVKIT_INLINE TensorView turned_view(const TensorView& t, E* block, int64_t planes) {
  TensorView v = block_view(t, block, 0, planes);
  v.size[kN] = 1;
  v.size[kC] = planes;
  return v;
}

struct TurnPlan {
  int64_t planes, vectors;     // in all
  int64_t most, blocks;        // vectors of a block, and how many blocks
  int64_t in, out, tap_bytes;  // positions of a plane; bytes of an offset

  // The last block has the planes that make no vector too.
  CONVKIT_INLINE int64_t first(int64_t block, int64_t lanes) const { return block * most * lanes; }
  CONVKIT_INLINE int64_t count(int64_t block, int64_t lanes) const {
    return block + 1 < blocks ? most * lanes : planes - first(block, lanes);
  }
};

CONVKIT_INLINE TurnPlan plan_turns(const PoolProblem& p, int64_t tap_bytes, int64_t lanes) {
  constexpr int64_t kBlockBytes = 1 << 17, kEnoughBlocks = 8;
  TurnPlan r{};
  r.planes = p.n * p.c;
  r.vectors = r.planes / lanes;
  r.in = volume(p.in);
  r.out = volume(p.out);
  r.tap_bytes = tap_bytes;
  const int64_t by_size = kBlockBytes / ((r.in + r.out) * kVectorBytes);
  r.most = greater(1, lesser(lesser(by_size, kBlock), r.vectors / kEnoughBlocks));
  r.blocks = greater(1, r.vectors / r.most);
  return r;
}

// Whether planes can be turned, and are small enough to stay in the cache.
template <typename T>
CONVKIT_INLINE bool turns_apply(const PoolProblem& p, const TensorView& x, const TensorView& y,
                                const TensorView& offsets) {
  using A = pool_accumulate_t<T>;
  constexpr int64_t kMostBytes = 1 << 18;
  if (!__is_same(T, A) || !IsFloating<A>::value || p.n * p.c < Lanes<A>::count) return false;
  if ((volume(p.in) + volume(p.out)) * kVectorBytes > kMostBytes) return false;
  return planes_in_line(x) && planes_in_line(y) && planes_in_line(offsets);
}

// Whether rows are so short that turning planes costs less than part empty vectors and calls for a few elements; not
// where windows of pool_columns.h fill vectors themselves. `tiles`: pool_tiles.h can run the problem, which makes less
// of a row than others.
constexpr int64_t kShortRow = 16, kShortTiles = 5, kWideWindow = 3;  // kWideWindow: vectors
template <typename T>
CONVKIT_INLINE bool turning_pays(const PoolProblem& p, const TensorView& x, const TensorView& y,
                                 const TensorView& offsets, bool tiles) {
  const bool wide = columns_apply(p) && p.kernel[2] >= kWideWindow * Lanes<pool_accumulate_t<T>>::count;
  return !wide && p.out[2] <= (tiles ? kShortTiles : kShortRow) && turns_apply<T>(p, x, y, offsets);
}
template <typename T>
CONVKIT_INLINE bool turning_back_pays(const PoolProblem& p, const TensorView& dy, const TensorView& dx,
                                      const TensorView& offsets, bool tiles) {
  const bool phases = !p.adaptive && p.stride[2] <= kShuffledStride;
  const int64_t positions = phases ? ceil_div(p.in[2], p.stride[2]) : p.in[2];
  return positions <= (tiles ? kShortTiles : kShortRow) && turns_apply<T>(p, dx, dy, offsets);
}

// Offsets of 1, 2 or 4 bytes, to positions x planes and back.
CONVKIT_INLINE void turn_taps(const TensorView& t, int64_t first, int64_t count, void* to) {
  const int64_t positions = t.size[kD] * t.size[kH] * t.size[kW];
  switch (dtype_bytes(t.dtype)) {
    case 1:
      return transpose_bytes(data<uint8_t>(t) + first * t.stride[kC], t.stride[kC], count, positions,
                             static_cast<uint8_t*>(to), count);
    case 2: return planes_to_channels(t, 0, first, count, static_cast<int16_t*>(to));
    default: return planes_to_channels(t, 0, first, count, static_cast<int32_t*>(to));
  }
}
CONVKIT_INLINE void turn_taps_back(const void* from, const TensorView& t, int64_t first, int64_t count) {
  const int64_t positions = t.size[kD] * t.size[kH] * t.size[kW];
  switch (dtype_bytes(t.dtype)) {
    case 1:
      return transpose_bytes(static_cast<const uint8_t*>(from), count, positions, count,
                             data<uint8_t>(t) + first * t.stride[kC], t.stride[kC]);
    case 2: return channels_to_planes(static_cast<const int16_t*>(from), t, 0, first, count);
    default: return channels_to_planes(static_cast<const int32_t*>(from), t, 0, first, count);
  }
}

// Some planes as channels of one image, in scratch memory.
template <typename T>
struct TurnedBlock {
  PoolProblem p;
  int64_t first;  // plane
  TensorView x, y, offsets;

  T *in = nullptr, *out = nullptr;
  char* taps = nullptr;

  // A block has at most 2 * most - 1 vectors, and less than one more.
  bool allocate(const TurnPlan& plan, int64_t lanes) {
    const int64_t planes = 2 * plan.most * lanes;
    Carver sizes{nullptr, 0};
    carve(sizes, plan, planes);
    Carver real{static_cast<char*>(thread_scratch(2, sizes.used)), 0};
    if (real.base != nullptr) carve(real, plan, planes);
    return real.base != nullptr;
  }
  CONVKIT_INLINE void carve(Carver& c, const TurnPlan& plan, int64_t planes) {
    c.take(&in, plan.in * planes);
    c.take(&out, plan.out * planes);
    c.take(&taps, plan.out * planes * plan.tap_bytes);
  }
};

// Calls run(block) for every block of planes, between turning what it reads and turning back what it writes: x to y and
// offsets, or (kBack) y and offsets to x.
template <typename T, bool kOffsets, bool kBack = false, typename F>
Status for_turned(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                  const F& run) {
  constexpr int64_t lanes = Lanes<pool_accumulate_t<T>>::count;
  const TurnPlan plan = plan_turns(p, kOffsets ? dtype_bytes(offsets.dtype) : 0, lanes);
  const TensorView all_x = one_image(x), all_y = one_image(y), all_offsets = one_image(offsets);
  Failure failure;
  for_units(plan.blocks, plan.most * lanes * plan.in, [&](int64_t begin, int64_t end) {
    TurnedBlock<T> block;
    if (!block.allocate(plan, lanes)) return failure.raise();
    block.p = p;
    block.p.n = 1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = plan.first(i, lanes), count = plan.count(i, lanes);
      block.p.c = count;
      block.first = first;
      block.x = turned_view(x, block.in, count);
      block.y = turned_view(y, block.out, count);
      if constexpr (kOffsets) block.offsets = turned_view(offsets, block.taps, count);
      if constexpr (kBack) {
        planes_to_channels(all_y, 0, first, count, block.out);
        if constexpr (kOffsets) turn_taps(all_offsets, first, count, block.taps);
      } else {
        planes_to_channels(all_x, 0, first, count, block.in);
      }
      if (!run(block)) return failure.raise();
      if constexpr (kBack) {
        channels_to_planes(block.in, all_x, 0, first, count);
      } else {
        channels_to_planes(block.out, all_y, 0, first, count);
        if constexpr (kOffsets) turn_taps_back(block.taps, all_offsets, first, count);
      }
    }
  });
  return failure.status();
}

template <typename Policy, typename T, bool kOffsets>
Status pool_turned(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                   const Policy& policy = {}) {
  return for_turned<T, kOffsets>(p, x, y, offsets, [&](const TurnedBlock<T>& block) {
    ChannelPool<Policy, T, kOffsets> pool{block.p, block.x, block.y, block.offsets, policy};
    for (int64_t o = 0; o < p.out[0]; ++o)
      for (int64_t q = 0; q < p.out[1]; ++q) pool.row(0, o, q);
    pool.policy.done();
    return true;
  });
}

template <typename Policy, typename T>
Status gather_turned(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx,
                     const Policy& policy = {}) {
  return for_turned<T, Policy::kSelect, true>(p, dx, dy, offsets, [&](const TurnedBlock<T>& block) {
    ChannelGather<Policy, T> task{block.p, block.y, block.offsets, block.x, policy, {}};
    return task.run(0, p.in[0] * p.in[1]);
  });
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
