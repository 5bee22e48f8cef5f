// A tile of an implicit GEMM: how a block divides it among warps, and the pipeline of its main loop.
#pragma once

#include "cuda/device/async_copy.h"
#include "cuda/igemm_operands.h"

namespace convkit::cuda {

// A tile of kM x kN sums for kWarpsM x kWarpsN warps. OperandA and OperandB: AlongReduction or AcrossReduction.
template <typename P, int kM_, int kN_, int kWarpsM, int kWarpsN, template <typename, int> class OperandA,
          template <typename, int> class OperandB>
struct Tile {
  using Products = P;
  using Element = typename P::Element;
  using A = OperandA<Element, kM_>;
  using B = OperandB<Element, kN_>;
  static constexpr int kM = kM_, kN = kN_;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpLanes;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kMmasM = kWarpM / 16, kMmasN = kWarpN / 8;
  static constexpr int kBytesA = kM * kStepBytes, kStageBytes = (kM + kN) * kStepBytes;
  static_assert(kMmasN % 2 == 0 && kM % (16 * kWarpsM) == 0, "a warp takes 16 rows and 16 columns at a time");

  // Where the warp's part of the tile begins.
  CONVKIT_DEVICE static int warp_row() { return static_cast<int>(threadIdx.x) / kWarpLanes / kWarpsN * kWarpM; }
  CONVKIT_DEVICE static int warp_column() { return static_cast<int>(threadIdx.x) / kWarpLanes % kWarpsN * kWarpN; }
};

// A thread's sums, in the layout of mma's D: for each of 16 x 8, rows lane / 4 and + 8, columns lane % 4 * 2 and + 1.
template <typename Tile>
struct Sums {
  float v[Tile::kMmasM][Tile::kMmasN][4];
};

// The tiles that kernels are compiled for: the large one reads less of memory, the small one leaves fewer
// multiprocessors without a block and fewer rows and columns without a use.
template <typename P, template <typename, int> class A, template <typename, int> class B>
using LargeTile = Tile<P, 128, 128, 2, 4, A, B>;
template <typename P, template <typename, int> class A, template <typename, int> class B>
using SmallTile = Tile<P, 64, 64, 2, 2, A, B>;
constexpr int kLargeTile = 128, kSmallTile = 64;
// Blocks of a kernel that share a multiprocessor, so that one computes while the other waits at its barrier. Of large
// tiles two do with 128 registers a thread, which hold what 16-bit types need, and TF32 where ldmatrix brings it; in
// all other kernels of floats they would spill. 0: as ptxas judges, which is right for small tiles.
template <typename Tile, bool kAlong>
constexpr int kResident =
    Tile::kM == kLargeTile && (sizeof(typename Tile::Element) == 2 || (kAlong && Tile::Products::kTerms == 1)) ? 2 : 0;
constexpr int64_t kEnoughBlocks = 96;  // large tiles from which on they are used: most of a GPU's multiprocessors

// When stages of the pipeline are filled and read: kAhead steps are under way while one is computed. One barrier a step
// is enough: behind it everyone's part of this step has come, and everyone has read the stage that is filled next.
struct Pipeline {
  static constexpr int kStages = 4, kAhead = kStages - 1;
  CONVKIT_DEVICE static void await_step() {
    wait_copies<kAhead - 1>();
    __syncthreads();
  }
};

// sums += A B for one stage. Floats of 24 bits take three products of TF32, the small ones first: low high + high low +
// high high; low low is below 2^-22 of the product.
template <typename Tile>
CONVKIT_DEVICE void multiply_step(const char* stage, Sums<Tile>& sums) {
  using Element = typename Tile::Element;
  constexpr int kTerms = Tile::Products::kTerms;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, row = Tile::warp_row(), column = Tile::warp_column();
  CONVKIT_UNROLL
  for (int mma = 0; mma < kMmasPerStep; ++mma) {
    uint32_t a[Tile::kMmasM][4], b[Tile::kMmasN][2];
    uint32_t low_a[kTerms == 3 ? Tile::kMmasM : 1][4], low_b[kTerms == 3 ? Tile::kMmasN : 1][2];
    CONVKIT_UNROLL
    for (int i = 0; i < Tile::kMmasM; ++i) Tile::A::load_a(stage, row + 16 * i, mma, lane, a[i]);
    CONVKIT_UNROLL
    for (int j = 0; j < Tile::kMmasN; j += 2) {
      uint32_t pair[4];
      Tile::B::load_b(stage + Tile::kBytesA, column + 8 * j, mma, lane, pair);
      CONVKIT_UNROLL
      for (int r = 0; r < 4; ++r) b[j + r / 2][r % 2] = pair[r];
    }
    if constexpr (sizeof(Element) == 4) {
      CONVKIT_UNROLL
      for (int i = 0; i < Tile::kMmasM * 4; ++i) {
        if constexpr (kTerms == 3)
          split(a[i / 4][i % 4], low_a[i / 4][i % 4]);
        else
          a[i / 4][i % 4] = bit_cast<uint32_t>(round_tf32(bit_cast<float>(a[i / 4][i % 4])));
      }
      CONVKIT_UNROLL
      for (int j = 0; j < Tile::kMmasN * 2; ++j) {
        if constexpr (kTerms == 3)
          split(b[j / 2][j % 2], low_b[j / 2][j % 2]);
        else
          b[j / 2][j % 2] = bit_cast<uint32_t>(round_tf32(bit_cast<float>(b[j / 2][j % 2])));
      }
    }
    // Term by term, so that neighbouring instructions add to different sums.
    CONVKIT_UNROLL
    for (int term = 0; term < kTerms; ++term) {
      CONVKIT_UNROLL
      for (int i = 0; i < Tile::kMmasM; ++i) {
        CONVKIT_UNROLL
        for (int j = 0; j < Tile::kMmasN; ++j) {
          if constexpr (kTerms == 3) {
            if (term == 0)
              multiply_matrices<Element>(sums.v[i][j], low_a[i], b[j]);
            else if (term == 1)
              multiply_matrices<Element>(sums.v[i][j], a[i], low_b[j]);
            else
              multiply_matrices<Element>(sums.v[i][j], a[i], b[j]);
          } else {
            multiply_matrices<Element>(sums.v[i][j], a[i], b[j]);
          }
        }
      }
    }
  }
}

// The sums over `steps` steps of the reduction. `fetch(stage)` starts this thread's copies of the next step; it is
// called once for each. All shared memory of the stages is free again when this returns.
template <typename Tile, typename Sync, typename Fetch>
CONVKIT_DEVICE void accumulate(Fetch&& fetch, int32_t steps, char* stages, Sums<Tile>& sums) {
  CONVKIT_UNROLL
  for (int i = 0; i < Tile::kMmasM * Tile::kMmasN * 4; ++i)
    sums.v[i / 4 / Tile::kMmasN][i / 4 % Tile::kMmasN][i % 4] = 0;
  for (int ahead = 0; ahead < Sync::kAhead; ++ahead) {
    if (ahead < steps) fetch(stages + ahead % Sync::kStages * Tile::kStageBytes);
    commit_copies();  // an empty group where there is no step: the count of groups stays that of steps
  }
  for (int32_t step = 0; step < steps; ++step) {
    Sync::await_step();
    if (step + Sync::kAhead < steps) fetch(stages + (step + Sync::kAhead) % Sync::kStages * Tile::kStageBytes);
    commit_copies();
    multiply_step(stages + step % Sync::kStages * Tile::kStageBytes, sums);
  }
  wait_copies<0>();
  __syncthreads();
}

// Puts the block's sums into shared memory, so that threads can take neighbours of a row from there. The eight-float
// groups of a row are permuted as operands are.
template <typename Tile>
CONVKIT_DEVICE float* staged(float* stage, int row, int column) {
  return stage + row * Tile::kN + (column / 8 ^ (row & 7)) * 8 + column % 8;
}
template <typename Tile>
CONVKIT_DEVICE void stage_sums(const Sums<Tile>& sums, float* stage) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  CONVKIT_UNROLL
  for (int i = 0; i < Tile::kMmasM; ++i) {
    CONVKIT_UNROLL
    for (int j = 0; j < Tile::kMmasN; ++j) {
      CONVKIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        float* to = staged<Tile>(stage, Tile::warp_row() + 16 * i + 8 * half + lane / 4,
                                 Tile::warp_column() + 8 * j + lane % 4 * 2);
        to[0] = sums.v[i][j][2 * half];
        to[1] = sums.v[i][j][2 * half + 1];
      }
    }
  }
  __syncthreads();
}

template <typename Tile, typename Sync>
constexpr int kStagesBytes =
    Sync::kStages * Tile::kStageBytes > Tile::kM* Tile::kN * 4 ? Sync::kStages * Tile::kStageBytes
                                                               : Tile::kM * Tile::kN * 4;

}  // namespace convkit::cuda
