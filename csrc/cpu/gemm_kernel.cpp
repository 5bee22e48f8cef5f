// The micro-kernels of gemm_kernel.h: one instance per tile height and width, written once.
#include "cpu/gemm_kernel.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename A, int kRows, int kVectors>
void kernel(const A* __restrict a, const A* __restrict b, int64_t b_pitch, int64_t k, A* __restrict tile,
            bool accumulate) {
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

#define CONVKIT_TILE(A, rows) {kernel<A, rows, 1>, kernel<A, rows, 2>}
#if CONVKIT_AVX512
#define CONVKIT_TILES(A)                                                                                       \
  {                                                                                                            \
    {                                                                                                          \
      CONVKIT_TILE(A, 1), CONVKIT_TILE(A, 2), CONVKIT_TILE(A, 3), CONVKIT_TILE(A, 4), CONVKIT_TILE(A, 5),      \
          CONVKIT_TILE(A, 6), CONVKIT_TILE(A, 7), CONVKIT_TILE(A, 8), CONVKIT_TILE(A, 9), CONVKIT_TILE(A, 10), \
          CONVKIT_TILE(A, 11), CONVKIT_TILE(A, 12), CONVKIT_TILE(A, 13), CONVKIT_TILE(A, 14)                   \
    }                                                                                                          \
  }
#else
#define CONVKIT_TILES(A)                                                                                  \
  {                                                                                                       \
    {                                                                                                     \
      CONVKIT_TILE(A, 1), CONVKIT_TILE(A, 2), CONVKIT_TILE(A, 3), CONVKIT_TILE(A, 4), CONVKIT_TILE(A, 5), \
          CONVKIT_TILE(A, 6)                                                                              \
    }                                                                                                     \
  }
#endif

}  // namespace

extern const GemmKernels<float> kGemmFloat;
const GemmKernels<float> kGemmFloat = CONVKIT_TILES(float);
extern const GemmKernels<double> kGemmDouble;
const GemmKernels<double> kGemmDouble = CONVKIT_TILES(double);

}  // namespace CONVKIT_ISA
}  // namespace convkit
