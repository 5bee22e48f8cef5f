// Two sums per channel over images and positions, in two launches without atomics: parts, and what is made of them.
//
// Layout    any strides; packs of 16 bytes of channels that are neighbours, or of positions of dense planes whose size
//           is a multiple of them; else element by element
// Mapping   elements of a channel, image by image, are cut into parts; a block sums one part of one channel, or of
//           up to 32 packs of channels that lie side by side. The cut depends on the problem alone, and so do all bits.
// Memory    every operand is read once; parts are two numbers per channel
// Limits    floating dtypes; 2^30 elements per plane
#pragma once

#include "core/batch_norm.h"
#include "cuda/bn_operands.h"
#include "cuda/reduce.h"

namespace convkit::cuda {

constexpr int kSumThreads = 256;
constexpr int64_t kSumBlocks = 528, kSumRows = 8;  // blocks wanted, and elements of a thread that a part is worth

struct ChannelSums {
  Divider volume, w, h;  // element of a channel -> (n, d, h, w); in packs of positions where those are read
  Divider packs;         // thread -> (row, pack of channels)
  int32_t channels;
  int64_t elements, each;  // of a channel, and of a part; in packs of `pack` positions
  int32_t pack;
  void* parts;  // [part][sum][channel]
};

// `Term` is what is added up: begin<kChannels>(c) reads what belongs to channels, add<kCount>(n, c, at, first, second)
// adds the elements of one pack to both sums of its channels.
template <typename Term, int kCount, bool kAlongC>
__global__ void __launch_bounds__(kSumThreads) channel_sums(const ChannelSums g, const Term given) {
  using A = typename Term::Sum;
  A* shared = static_cast<A*>(shared_memory());
  constexpr int kChannels = kAlongC ? kCount : 1;
  int32_t row = static_cast<int32_t>(threadIdx.x), pack = 0, rows = static_cast<int32_t>(blockDim.x);
  if (kAlongC) {
    pack = g.packs.take(&row);
    rows /= g.packs.divisor();
  }
  const int32_t first = static_cast<int32_t>(blockIdx.x) * (kAlongC ? g.packs.divisor() * kCount : 1);
  const int32_t c = first + pack * kChannels;
  const bool live = c < g.channels && row < rows;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * g.each, left = g.elements - begin;
  const int32_t count = static_cast<int32_t>(left < g.each ? left : g.each);
  const int64_t image = begin / g.volume.divisor();
  const int32_t late = static_cast<int32_t>(begin - image * g.volume.divisor());

  A sum[2][kChannels] = {};
  if (live) {
    Term term = given;
    term.template begin<kChannels>(c);
    for (int32_t i = row; i < count; i += rows) {
      int32_t n = late + i;
      Window at;
      const int32_t position = g.volume.take(&n);
      int32_t rest = position;
      at.w = g.w.take(&rest) * (kAlongC ? 1 : kCount);
      at.h = g.h.take(&rest);
      at.d = rest;
      term.template add<kCount>(image + n, c, at, sum[0], sum[1]);
    }
  }
  A* parts = static_cast<A*>(g.parts) + static_cast<int64_t>(blockIdx.y) * 2 * g.channels;
  if constexpr (kAlongC) {
    const int32_t wide = g.packs.divisor() * kCount;
    CONVKIT_UNROLL
    for (int s = 0; s < 2; ++s) {
      CONVKIT_UNROLL
      for (int j = 0; j < kCount; ++j)
        if (row < rows) shared[row * wide + pack * kCount + j] = sum[s][j];
      __syncthreads();
      for (int32_t i = static_cast<int32_t>(threadIdx.x); i < wide && first + i < g.channels;
           i += static_cast<int32_t>(blockDim.x)) {
        A total = 0;
        for (int32_t r = 0; r < rows; ++r) total += shared[r * wide + i];
        parts[s * g.channels + first + i] = total;
      }
      __syncthreads();
    }
  } else {
    const A both[2] = {sum[0][0], sum[1][0]};
    const A total = sum_block(both, shared);
    if (threadIdx.x < 2) parts[static_cast<int32_t>(threadIdx.x) * g.channels + c] = total;
  }
}

// Cuts the elements of each channel into parts, and says how many.
inline int64_t cut_sums(const TensorView& x, Packs packs, ChannelSums* g) {
  const int64_t count = pack_count(x.dtype), volume = x.size[kD] * x.size[kH] * x.size[kW];
  const int64_t pack = packs == Packs::kPositions ? count : 1, channels = x.size[kC];
  const bool flat = packs == Packs::kPositions;
  *g = ChannelSums{};
  g->volume = Divider(volume / pack);
  g->w = Divider(flat ? volume / pack : x.size[kW]);
  g->h = Divider(flat ? 1 : x.size[kH]);
  g->channels = static_cast<int32_t>(channels);
  g->elements = x.size[kN] * (volume / pack);
  g->pack = static_cast<int32_t>(pack);
  int64_t tiles = channels, rows = kSumThreads;
  if (packs == Packs::kChannels) {
    const int64_t wide = channels / count < kWarpLanes ? channels / count : kWarpLanes;
    g->packs = Divider(wide);
    tiles = ceil_div(channels / count, wide);
    rows = kSumThreads / wide;
  }
  int64_t parts = ceil_div(kSumBlocks, tiles), most = ceil_div(g->elements, rows * kSumRows);
  if (parts > most) parts = most;
  if (parts > kMostBlocksY) parts = kMostBlocksY;
  constexpr int64_t kMostEach = 1 << 30;
  g->each = ceil_div(g->elements, parts);
  if (g->each > kMostEach) g->each = kMostEach;
  return ceil_div(g->elements, g->each);
}

// Launches the sums of `term` over x's elements; `parts` of them, from cut_sums.
template <typename T, typename Term>
Status launch_sums(const TensorView& x, Packs packs, const ChannelSums& g, int64_t parts, const Term& term) {
  using A = typename Term::Sum;
  constexpr int kCount = kPackCount<T>;
  if (packs == Packs::kChannels) {
    const int64_t wide = g.packs.divisor();
    const Grid grid{blocks(ceil_div(x.size[kC] / kCount, wide), parts), threads(kSumThreads),
                    static_cast<size_t>(kSumThreads / wide * wide * kCount) * sizeof(A)};
    return launch(channel_sums<Term, kCount, true>, grid, ChannelSums(g), Term(term));
  }
  const Grid grid{blocks(x.size[kC], parts), threads(kSumThreads), kSumThreads / kWarpLanes * 2 * sizeof(A)};
  return packs == Packs::kPositions ? launch(channel_sums<Term, kCount, false>, grid, ChannelSums(g), Term(term))
                                    : launch(channel_sums<Term, 1, false>, grid, ChannelSums(g), Term(term));
}

// A launch over channels, kAddChannels of them to a block, whose kernel adds up their parts by add_channel.
constexpr int kAddThreads = 256, kAddChannels = 8;  // neighbours, which are a whole sector of memory or two
inline Grid grid_of_channels(const ChannelSums& g) {
  return Grid{blocks(ceil_div(g.channels, kAddChannels)), threads(kAddThreads), 2 * kAddThreads * sizeof(double)};
}

// Both sums of the thread's channel, of type A in their parts: rows of threads take parts in turn. The channel, or -1
// in all threads but the one that is to store them.
template <typename A>
CONVKIT_DEVICE int32_t add_channel(const ChannelSums& g, int32_t parts, double (&sum)[2]) {
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int32_t c = static_cast<int32_t>(blockIdx.x) * kAddChannels + thread % kAddChannels;
  sum[0] = sum[1] = 0;
  for (int32_t part = thread / kAddChannels; part < parts && c < g.channels; part += kAddThreads / kAddChannels) {
    const A* sums = static_cast<const A*>(g.parts) + static_cast<int64_t>(part) * 2 * g.channels + c;
    sum[0] += static_cast<double>(sums[0]);
    sum[1] += static_cast<double>(sums[g.channels]);
  }
  sum_rows(sum, kAddChannels, static_cast<double*>(shared_memory()));
  return thread < kAddChannels && c < g.channels ? c : -1;
}

// Sums `term` over x, in a workspace, and calls finish(sums, parts), which launches what reads them; x may be empty.
template <typename T, typename Term, typename Finish>
Status sum_channels(const TensorView& x, Packs packs, const Term& term, const Finish& finish) {
  ChannelSums g{};
  g.channels = static_cast<int32_t>(x.size[kC]);
  const int64_t parts = numel(x) == 0 ? 0 : cut_sums(x, packs, &g);
  const Workspace workspace(parts * 2 * g.channels * static_cast<int64_t>(sizeof(typename Term::Sum)));
  if (!workspace.status().ok()) return workspace.status();
  g.parts = workspace.as<void>();
  const Status status = parts > 0 ? launch_sums<T>(x, packs, g, parts, term) : kOk;
  return status.ok() ? finish(g, static_cast<int32_t>(parts)) : status;
}

}  // namespace convkit::cuda
