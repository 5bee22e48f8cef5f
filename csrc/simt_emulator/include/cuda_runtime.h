// Stands in for NVIDIA's header where a .cu file is compiled by a C++ compiler: the keywords and built-ins that
// csrc/cuda uses, on the machine of simt_emulator/block.h. Nothing outside of csrc/cuda/device may need more.
#pragma once

#include <cstring>

#include "simt_emulator/block.h"
#include "simt_emulator/matrix.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
using dim3 = convkit::simt::Size;

#define threadIdx (::convkit::simt::thread_index())
#define blockIdx (::convkit::simt::block_index())
#define blockDim (::convkit::simt::block_size())
#define gridDim (::convkit::simt::grid_size())

#define CONVKIT_SITE_TEXT(line) #line
#define CONVKIT_SITE_OF(file, line) file ":" CONVKIT_SITE_TEXT(line)
#define CONVKIT_SITE CONVKIT_SITE_OF(__FILE__, __LINE__)

#define __syncthreads() ::convkit::simt::block_barrier(CONVKIT_SITE)
#define __syncwarp(mask) ((void)::convkit::simt::warp_vote(mask, false, CONVKIT_SITE))
#define __ballot_sync(mask, predicate) ::convkit::simt::warp_vote(mask, predicate, CONVKIT_SITE)
#define __any_sync(mask, predicate) (::convkit::simt::warp_vote(mask, predicate, CONVKIT_SITE) != 0)
#define __all_sync(mask, predicate) (::convkit::simt::warp_vote(mask, predicate, CONVKIT_SITE) == (mask))
#define __match_any_sync(mask, value) \
  ::convkit::simt::warp_match(mask, static_cast<uint64_t>(static_cast<int64_t>(value)), CONVKIT_SITE)
#define __popc(bits) __builtin_popcount(bits)
#define __shfl_sync(mask, value, from) ::convkit::simt::shuffle(mask, value, static_cast<int>(from), CONVKIT_SITE)
#define __shfl_xor_sync(mask, value, bits) \
  ::convkit::simt::shuffle(mask, value, static_cast<int>(::convkit::simt::lane()) ^ (bits), CONVKIT_SITE)
#define __shfl_down_sync(mask, value, distance) \
  ::convkit::simt::shuffle(mask, value, static_cast<int>(::convkit::simt::lane()) + (distance), CONVKIT_SITE)
#define __shfl_up_sync(mask, value, distance) \
  ::convkit::simt::shuffle(mask, value, static_cast<int>(::convkit::simt::lane()) - (distance), CONVKIT_SITE)

namespace convkit::simt {

template <typename T>
T shuffle(unsigned mask, T value, int from, const char* site) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves 8 bytes at the most");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_shuffle(mask, bits, from, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace convkit::simt

// Blocks run side by side; returns what was there before.
inline int atomicMax(int* at, int value) {
  int before = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (before < value && !__atomic_compare_exchange_n(at, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}
