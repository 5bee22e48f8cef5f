// An implicit GEMM of the headers that conv_igemm is made of, with one fault each, for the tests that show the emulator
// finds them: a convolution of one image along one dimension, 3 taps, padding 1, kChannels in and 64 out, bfloat16.
#include "cuda/device/launch.h"
#include "cuda/igemm_tile.h"

namespace convkit::cuda {
namespace {

enum Fault {
  kNone,
  kNoWait,
  kNoBarrier,
  kStageFilledEarly,
  kWrongFragment,
  kPlaceNotPermuted,
  kHaloOffByOne,
  kRacySplit,
  kLanesMissing,
  kFaults
};

constexpr int kChannels = 256, kTaps = 3, kFilters = 64, kParts = 3;
constexpr int kDepth = kTaps * kChannels, kSteps = kDepth / kStep<bfloat16> / kParts;

template <int kFault>
struct FaultyPipeline : Pipeline {
  static constexpr int kAhead = kFault == kStageFilledEarly ? kStages : kStages - 1;
  CONVKIT_DEVICE static void await_step() {
    if (kFault != kNoWait) wait_copies<kAhead - 1>();
    if (kFault != kNoBarrier) __syncthreads();
    if (kFault == kLanesMissing && threadIdx.x % kWarpLanes < 16) {
      float d[4] = {};
      const uint32_t a[4] = {}, b[2] = {};
      multiply_matrices<bfloat16>(d, a, b);
    }
  }
};

// Takes the second half of the reduction for the other columns.
template <typename T, int kOuter>
struct WrongFragment : AlongReduction<T, kOuter> {
  CONVKIT_DEVICE static void load_b(const char* operand, int outer, int mma, int lane, uint32_t (&r)[4]) {
    load_matrices(operand + AlongReduction<T, kOuter>::place(outer + lane % 16, 2 * mma + lane / 16), r);
  }
};

template <int kFault, template <typename, int> class B>
__global__ void convolve(const bfloat16* x, const bfloat16* w, float* y, float* parts, int length) {
  using OneTile = SmallTile<Products<bfloat16, 1>, AlongReduction, B>;
  char* stages = static_cast<char*>(shared_memory());
  const int vector = static_cast<int>(threadIdx.x) % kStepVectors, first = static_cast<int>(blockIdx.x) * OneTile::kM;
  int at = static_cast<int>(blockIdx.z) * kSteps * kStep<bfloat16> + vector * kPackCount<bfloat16>;
  const auto fetch = [&](char* stage) {
    const int tap = at / kChannels, channel = at % kChannels;
    for (int row = static_cast<int>(threadIdx.x) / kStepVectors; row < OneTile::kM;
         row += OneTile::kThreads / kStepVectors) {
      const int from = first + row + tap - 1;
      const bool inside = from >= 0 && (kFault == kHaloOffByOne ? from <= length : from < length);
      const int to =
          kFault == kPlaceNotPermuted ? row * kStepBytes + vector * kPackBytes : OneTile::A::place(row, vector);
      copy_async_16(stage + to, x + from * kChannels + channel, inside);
      copy_async_16(stage + OneTile::kBytesA + OneTile::B::place(row, vector), w + row * kDepth + at);
    }
    at += kStep<bfloat16>;
  };
  Sums<OneTile> sums;
  accumulate<OneTile, FaultyPipeline<kFault>>(fetch, kSteps, stages, sums);
  float* stage = reinterpret_cast<float*>(stages);
  stage_sums(sums, stage);
  for (int i = static_cast<int>(threadIdx.x); i < OneTile::kM * kFilters; i += OneTile::kThreads) {
    const int row = i / kFilters, filter = i % kFilters;
    if (first + row >= length) continue;
    const float sum = *staged<OneTile>(stage, row, filter);
    const int to = (first + row) * kFilters + filter;
    if (kFault == kRacySplit)
      y[to] += sum;
    else
      parts[static_cast<int>(blockIdx.z) * length * kFilters + to] = sum;
  }
}

__global__ void add_in_order(const float* parts, float* y, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  for (int part = 0; part < kParts; ++part) y[i] += parts[part * count + i];
}

template <int kFault>
Status run(int fault, const bfloat16* x, const bfloat16* w, float* y, int length) {
  if constexpr (kFault == kFaults) {
    return {"no such fault"};
  } else {
    if (fault != kFault) return run<kFault + 1>(fault, x, w, y, length);
    using OneTile = SmallTile<Products<bfloat16, 1>, AlongReduction, AlongReduction>;
    const int count = length * kFilters;
    const Workspace parts(static_cast<int64_t>(kParts) * count * static_cast<int64_t>(sizeof(float)));
    if (!parts.status().ok()) return parts.status();
    const Grid grid{blocks(ceil_div(length, OneTile::kM), 1, kParts), threads(OneTile::kThreads),
                    kStagesBytes<OneTile, Pipeline>};
    Status status = kFault == kWrongFragment
                        ? launch(convolve<kFault, WrongFragment>, grid, x, w, y, parts.as<float>(), length)
                        : launch(convolve<kFault, AlongReduction>, grid, x, w, y, parts.as<float>(), length);
    if (!status.ok() || kFault == kRacySplit) return status;
    return launch(add_in_order, Grid{blocks(ceil_div(count, 256)), threads(256)},
                  static_cast<const float*>(parts.as<float>()), y, count);
  }
}

}  // namespace
}  // namespace convkit::cuda

// nullptr, or what the emulator reports. x: (length, 256), w: (64, 3, 256); y: (length, 64) of zeros.
extern "C" __attribute__((visibility("default"))) const char* convkit_simt_igemm_fault(int fault, const uint16_t* x,
                                                                                       const uint16_t* w, float* y,
                                                                                       int length) {
  using convkit::bfloat16;
  return convkit::cuda::run<0>(fault, reinterpret_cast<const bfloat16*>(x), reinterpret_cast<const bfloat16*>(w), y,
                               length)
      .reason;
}
