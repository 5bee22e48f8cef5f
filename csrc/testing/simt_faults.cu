// Kernels with one fault each, of the kinds that GPU code is wrong in, for the tests that show the emulator finds them.
//
// Each block sums three neighbours over four tiles of a row, with the next tile on its way while one is computed.
#include "cuda/device/async_copy.h"
#include "cuda/device/launch.h"
#include "cuda/device/pack.h"

namespace convkit::cuda {
namespace {

enum Fault {
  kNone,
  kNoWait,
  kNoBarrierAfterWait,
  kNoBarrierBeforeReuse,
  kHaloOffByOne,
  kDivergentBarrier,
  kMisalignedPack,
  kLaneOutsideMask,
  kSumInOrderOfArrival,
  kUnwrittenShared,
  kBeyondShared,
  kFaults
};

constexpr int kTile = 64, kTiles = 4, kHalo = 4, kRow = kTile + 2 * kHalo;

// y[i] = x[i - 1] + x[i] + x[i + 1] for a row of `tiles` x kTile elements, zeros around it; y[count] = their sum.
template <int kFault>
__global__ void smooth(const float* x, float* y, int count) {
  float* tiles = static_cast<float*>(shared_memory());
  float* total = tiles + 2 * kRow;
  const int thread = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.x) * kTiles * kTile;
  const auto fetch = [&](int tile) {
    const int from = first + tile * kTile - kHalo + thread * 4;
    if (thread * 4 < kRow)
      copy_async_16(tiles + tile % 2 * kRow + thread * 4, x + from, from >= 0 && from + 4 <= count);
    commit_copies();
  };
  if (thread == 0 && kFault != kUnwrittenShared) *total = 0;
  if (kFault == kDivergentBarrier && thread % 2 == 0) return;
  fetch(0);
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile + 1 < kTiles) fetch(tile + 1);
    if (kFault != kNoWait) {
      if (tile + 1 < kTiles)
        wait_copies<1>();
      else
        wait_copies<0>();
    }
    if (kFault != kNoBarrierAfterWait) __syncthreads();
    const float* s = tiles + tile % 2 * kRow + kHalo + thread;
    float v = s[-1] + s[0] + s[kFault == kHaloOffByOne ? 2 : 1];
    y[first + tile * kTile + thread] = v;
    if (kFault == kSumInOrderOfArrival) {
      *total += v;
    } else {
      const unsigned mask = kFault == kLaneOutsideMask ? 0x7fffffffu : 0xffffffffu;
      for (int distance = 1; distance < kWarpLanes; distance *= 2) v += __shfl_xor_sync(mask, v, distance);
      if (thread == 0) *total += v;
      __syncthreads();
      if (thread == kWarpLanes) *total += v;
    }
    if (kFault != kNoBarrierBeforeReuse) __syncthreads();
  }
  if (kFault == kMisalignedPack && thread == 0) store_pack(y + 1, load_pack<float, 4>(x + 1));
  if (kFault == kBeyondShared && thread == 0) tiles[2 * kRow + 4] = 0;
  if (thread == 0) y[count + static_cast<int>(blockIdx.x)] = *total;
}

template <int kFault>
Status run(int fault, const float* x, float* y, int64_t blocks_wanted) {
  if constexpr (kFault == kFaults) {
    return {"no such fault"};
  } else {
    if (fault != kFault) return run<kFault + 1>(fault, x, y, blocks_wanted);
    const Grid grid{blocks(blocks_wanted), threads(kTile), (2 * kRow + 4) * sizeof(float)};
    return launch(smooth<kFault>, grid, x, y, static_cast<int>(blocks_wanted * kTiles * kTile));
  }
}

}  // namespace
}  // namespace convkit::cuda

// nullptr, or what the emulator reports.
extern "C" __attribute__((visibility("default"))) const char* convkit_simt_fault(int fault, const float* x, float* y,
                                                                                 int64_t blocks) {
  return convkit::cuda::run<0>(fault, x, y, blocks).reason;
}
