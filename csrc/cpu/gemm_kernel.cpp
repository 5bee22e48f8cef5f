// The micro-kernels of gemm_kernel.h: one instance per tile height and width, with and without lines asked for, written
// once.
#include "cpu/gemm_kernel.h"

#include <utility>

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename A, bool kAsks, int kRows, int kVectors>
void kernel(const A* __restrict a, const A* __restrict b, int64_t b_pitch, int64_t k, A* __restrict tile,
            bool accumulate, const char* ahead) {
  constexpr int lanes = kLanes<A>, panel = kPanel<A>;
  vector_t<A> acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      acc[i][v] = accumulate ? load_vector(tile + i * panel + v * lanes) : vector_t<A>{};
  const char* next = reinterpret_cast<const char*>(a + kRows * kDepthPitch);
  for (int64_t at = 0; at < k; ++at, b += b_pitch, ++a) {
    __builtin_prefetch(next + at * 64);  // one line per step covers the next tile of A
    if constexpr (kAsks) __builtin_prefetch(ahead + at * 64, 0, 2);
    vector_t<A> row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) row[v] = load_vector(b + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const A scalar = a[i * kDepthPitch];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[i][v] += scalar * row[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store_vector(tile + i * panel + v * lanes, acc[i][v]);
}

// Three rows share a pointer: the addresses of the others are it plus one and two pitches. Each step asks for a line of
// what follows the tile's rows, where the next tile's lie as a rule.
template <typename A, int kRows, int kVectors>
void runs_kernel(const A* __restrict a, const Runs& runs, const A* __restrict b, A* __restrict tile, bool accumulate) {
  constexpr int lanes = kLanes<A>, panel = kPanel<A>, kShare = 3, kPointers = (kRows + kShare - 1) / kShare;
  vector_t<A> acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      acc[i][v] = accumulate ? load_vector(tile + i * panel + v * lanes) : vector_t<A>{};
  const int64_t pitch = runs.pitch, length = runs.length;
  for (int64_t r = 0; r < runs.count; ++r) {
    const A* row[kPointers];
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) row[i] = a + runs.offset[r] + kShare * i * pitch;
    const char* next = reinterpret_cast<const char*>(a + runs.offset[r] + kRows * pitch);
    for (int64_t at = 0; at < length; ++at, b += panel) {
      __builtin_prefetch(next + at * 64);
      vector_t<A> column[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) column[v] = load_vector(b + v * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const A scalar = row[i / kShare][i % kShare * pitch + at];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) acc[i][v] += scalar * column[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store_vector(tile + i * panel + v * lanes, acc[i][v]);
}

template <typename A, int... kRows>
constexpr GemmRunsKernels<A> all_runs_kernels(std::integer_sequence<int, kRows...>) {
  return {{{runs_kernel<A, kRows + 1, 1>, runs_kernel<A, kRows + 1, 2>}...}};
}

template <typename A, bool kAsks, int... kRows>
constexpr GemmKernels<A> all_kernels(std::integer_sequence<int, kRows...>) {
  return {{{kernel<A, kAsks, kRows + 1, 1>, kernel<A, kAsks, kRows + 1, 2>}...}};
}
template <typename A, bool kAsks>
constexpr GemmKernels<A> kKernels = all_kernels<A, kAsks>(std::make_integer_sequence<int, kTileRows>{});

}  // namespace

extern const GemmKernels<float> kGemmFloat[2];
const GemmKernels<float> kGemmFloat[2] = {kKernels<float, false>, kKernels<float, true>};
extern const GemmKernels<double> kGemmDouble[2];
const GemmKernels<double> kGemmDouble[2] = {kKernels<double, false>, kKernels<double, true>};
extern const GemmRunsKernels<float> kGemmRunsFloat;
const GemmRunsKernels<float> kGemmRunsFloat = all_runs_kernels<float>(std::make_integer_sequence<int, kTileRows>{});
extern const GemmRunsKernels<double> kGemmRunsDouble;
const GemmRunsKernels<double> kGemmRunsDouble = all_runs_kernels<double>(std::make_integer_sequence<int, kTileRows>{});

}  // namespace CONVKIT_ISA
}  // namespace convkit
