// The elements of a tensor in the order of its memory, one GPU thread each, or one pack of channels each.
#pragma once

#include "core/tensor_view.h"
#include "cuda/device/divide.h"
#include "cuda/device/launch.h"

namespace convkit::cuda {

constexpr int kWalkThreads = 256, kWalkBlocks = 2;  // blocks per multiprocessor: left to itself, ptxas spills for more

struct Window {
  int32_t d, h, w;
};

// Thread i of an image's grid stands at element i of it: W fastest, or C in packs of `pack` where channels are
// neighbours. Images lie along blockIdx.y, which goes round.
struct Walk {
  Divider channels, w, h, d;  // channels in packs
  bool channels_first;        // in the order of memory
  int32_t count;              // per image
  int64_t images;

  // False beyond the end.
  CONVKIT_DEVICE bool find(int pack, int64_t* c, Window* at) const {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (thread >= count) return false;
    int32_t rest = static_cast<int32_t>(thread);
    if (channels_first) *c = static_cast<int64_t>(channels.take(&rest)) * pack;
    at->w = w.take(&rest);
    at->h = h.take(&rest);
    at->d = d.take(&rest);
    if (!channels_first) *c = rest;
    return true;
  }
};

// nullptr in *refusal, or why `t` cannot be walked.
inline Walk walk_over(const TensorView& t, int pack, const char** refusal) {
  Walk walk{};
  const int64_t packs = t.size[kC] / pack;
  const int64_t count = packs * t.size[kD] * t.size[kH] * t.size[kW];
  *refusal = count > 0x7fffffff - kWalkThreads ? "the elements of one image are counted in 32 bits" : nullptr;
  if (*refusal != nullptr) return walk;
  walk.channels_first = pack > 1 || (t.stride[kC] == 1 && t.size[kC] > 1);
  walk.channels = Divider(packs);
  walk.w = Divider(t.size[kW]);
  walk.h = Divider(t.size[kH]);
  walk.d = Divider(t.size[kD]);
  walk.count = static_cast<int32_t>(count);
  walk.images = t.size[kN];
  return walk;
}

// `wanted`: blocks from which on threads take several images.
inline Grid grid_of(const Walk& walk, int64_t wanted = kMostBlocksX) {
  const int64_t count = whole_warps(walk.count, kWalkThreads), tiles = ceil_div(walk.count, count);
  int64_t rows = tiles > 0 ? ceil_div(wanted, tiles) : 1;
  if (rows > walk.images) rows = walk.images;
  return Grid{blocks(tiles, rows < kMostBlocksY ? rows : kMostBlocksY), threads(count)};
}

// Whether packs of `count` channels can be moved as one word: neighbours in memory, all of them aligned.
inline bool packs_fit(const TensorView& t, int64_t count, int64_t bytes) {
  if (t.size[kC] % count != 0 || t.stride[kC] != 1) return false;
  if (reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(count * bytes) != 0) return false;
  for (int i = 0; i < kDims; ++i)
    if (i != kC && t.size[i] > 1 && t.stride[i] % count != 0) return false;
  return true;
}

}  // namespace convkit::cuda
