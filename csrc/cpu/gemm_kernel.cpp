// The micro-kernels of gemm_kernel.h: one instance per tile height and width, with and without lines asked for, written
// once.
#include "cpu/gemm_kernel.h"

#include <utility>

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// A tile's sums, in registers: every loop over them is unrolled.
template <typename A, int kRows, int kVectors>
struct Sums {
  static constexpr int kWidth = kLanes<A>;
  vector_t<A> at[kRows][kVectors];

  CONVKIT_INLINE void load(const A* tile, bool accumulate) {
    each([&](int i, int v) { at[i][v] = accumulate ? load_vector(tile + i * kPanel<A> + v * kWidth) : vector_t<A>{}; });
  }
  CONVKIT_INLINE void store(A* tile) const {
    each([&](int i, int v) { store_vector(tile + i * kPanel<A> + v * kWidth, at[i][v]); });
  }
  // One step of k: scalar(i) is row i's element of A, `b` the panel's row.
  template <typename Scalar>
  CONVKIT_INLINE void add(const A* b, const Scalar& scalar) {
    vector_t<A> column[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) column[v] = load_vector(b + v * kWidth);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const A a = scalar(i);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) at[i][v] += a * column[v];
    }
  }

 private:
  template <typename F>
  CONVKIT_INLINE static void each(const F& f) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) f(i, v);
  }
};

template <typename A, bool kAsks, int kRows, int kVectors>
void kernel(const A* __restrict a, const A* __restrict b, int64_t b_pitch, int64_t k, A* __restrict tile,
            bool accumulate, const char* ahead) {
  Sums<A, kRows, kVectors> sums;
  sums.load(tile, accumulate);
  const char* next = reinterpret_cast<const char*>(a + kRows * kDepthPitch);
  for (int64_t at = 0; at < k; ++at, b += b_pitch, ++a) {
    __builtin_prefetch(next + at * 64);  // one line per step covers the next tile of A
    if constexpr (kAsks) __builtin_prefetch(ahead + at * 64, 0, 2);
    sums.add(b, [&](int i) { return a[i * kDepthPitch]; });
  }
  sums.store(tile);
}

// Three rows share a pointer: the addresses of the others are it plus one and two pitches. Each step asks for a line of
// what follows the tile's rows, where the next tile's lie as a rule.
template <typename A, int kRows, int kVectors>
void runs_kernel(const A* __restrict a, const Runs& runs, const A* __restrict b, A* __restrict tile, bool accumulate) {
  constexpr int kShare = 3, kPointers = (kRows + kShare - 1) / kShare;
  Sums<A, kRows, kVectors> sums;
  sums.load(tile, accumulate);
  const int64_t pitch = runs.pitch, length = runs.length;
  for (int64_t r = 0; r < runs.count; ++r) {
    const A* row[kPointers];
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) row[i] = a + runs.offset[r] + kShare * i * pitch;
    const char* next = reinterpret_cast<const char*>(a + runs.offset[r] + kRows * pitch);
    for (int64_t at = 0; at < length; ++at, b += kPanel<A>) {
      __builtin_prefetch(next + at * 64);
      sums.add(b, [&](int i) { return row[i / kShare][i % kShare * pitch + at]; });
    }
  }
  sums.store(tile);
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
