// The register-blocked product under conv_gemm: C[i][j] (+)= sum over k of A[i][k] * B[k][j].
//
// Layout    A: rows of kDepthPitch elements, k contiguous. B: panels of kPanel<T> columns, each [k][column] with
//           a row pitch given at run time: kPanel for a panel of its own, more for one that is part of a matrix.
//           C: one tile of rows x kPanel<T> columns.
// Mapping   a kernel holds up to kTileRows x kPanel accumulators in registers (AVX-512: 14 x 2 vectors, 28 of
//           32 registers). A step of k loads two vectors of B and broadcasts one element of A per row, so it
//           is bound by the FMA units: 28 FMAs against 16 loads.
// Memory    a B panel of kDepth rows (32 KiB of float) stays in L1 while tiles of A (15 KiB) stream from L2.
//           The row pitch is a compile-time constant, so that every address is one register plus a constant,
//           and an odd number of cache lines, so that the rows of a tile fall into different L1 sets. Each step of k
//           asks for a line of the next tile of A, and for one that the caller names.
#pragma once

#include "cpu/gemm_lanes.h"

namespace convkit {
inline namespace CONVKIT_ISA {

constexpr int64_t kDepth = 256;  // most k of one product; deeper sums are split and added in order
constexpr int64_t kDepthPitch = kDepth + 16;
constexpr int kTileVectors = 2;
#if CONVKIT_AVX512
constexpr int kTileRows = 14;
#else
constexpr int kTileRows = 6;
#endif
template <typename A>
constexpr int kPanel = kTileVectors * kLanes<A>;

// tile[i * kPanel + j] = sum (+ what it holds, if accumulate); rows and vectors are the kernel's own. Each step of k
// asks for a line of memory from `ahead` on; the kernels without it ask for none.
template <typename A>
using GemmKernel = void (*)(const A* a, const A* b, int64_t b_pitch, int64_t k, A* tile, bool accumulate,
                            const char* ahead);

template <typename A>
struct GemmKernels {
  GemmKernel<A> at[kTileRows][kTileVectors];  // by rows - 1 and vectors - 1
};
extern const GemmKernels<float> kGemmFloat[2];  // without and with `ahead`
extern const GemmKernels<double> kGemmDouble[2];

CONVKIT_INLINE const GemmKernels<float>* gemm_kernels(float) { return kGemmFloat; }
CONVKIT_INLINE const GemmKernels<double>* gemm_kernels(double) { return kGemmDouble; }

// A that is not packed: a row's k are `count` runs of `length` neighbours, of which run r begins offset[r] elements
// behind the row; rows are `pitch` elements apart.
struct Runs {
  const int64_t* offset;
  int64_t count, length, pitch;
  CONVKIT_INLINE int64_t size() const { return count * length; }
};

// As GemmKernel, of such rows and a panel of B of its own.
template <typename A>
using GemmRunsKernel = void (*)(const A* a, const Runs& runs, const A* b, A* tile, bool accumulate);

template <typename A>
struct GemmRunsKernels {
  GemmRunsKernel<A> at[kTileRows][kTileVectors];
};
extern const GemmRunsKernels<float> kGemmRunsFloat;
extern const GemmRunsKernels<double> kGemmRunsDouble;

CONVKIT_INLINE const GemmRunsKernels<float>& gemm_runs_kernels(float) { return kGemmRunsFloat; }
CONVKIT_INLINE const GemmRunsKernels<double>& gemm_runs_kernels(double) { return kGemmRunsDouble; }

template <typename A>
struct PanelsOf {
  const A* data;
  int64_t panel_pitch, row_pitch;
};

CONVKIT_INLINE int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Of multiply's tiles that need no memory asked for.
struct AsksNothing {
  CONVKIT_INLINE const char* operator()(int64_t, int64_t) const { return nullptr; }
};

// All rows x cols of C. `acc` holds every tile between the splits of k ([panel][row][kPanel]); it may be
// nullptr if first and last. With `last`, store(i, height, panel, tile) takes each finished tile. ahead(t, panel) is
// where the lines begin that tile t of a panel asks for, or nullptr.
template <typename A, typename Store, typename Asks>
CONVKIT_INLINE void multiply(int64_t rows, int64_t cols, int64_t k, const A* a, const PanelsOf<A>& b, A* acc,
                             bool first, bool last, const Store& store, const Asks& ahead) {
  constexpr int64_t panel = kPanel<A>;
  const GemmKernels<A>* kernels = gemm_kernels(A(0));
  // Tiles of nearly equal height: 64 rows are 13 + 13 + 13 + 13 + 12, not 4 x 14 + 8.
  const int64_t tiles = tiles_of(rows);
  alignas(64) A local[kTileRows * panel];
  for (int64_t j = 0; j < cols; j += panel) {
    const int vectors = cols - j > kLanes<A> ? 2 : 1;
    for (int64_t t = 0, i = 0; t < tiles; ++t) {
      const int64_t height = (rows - i + tiles - t - 1) / (tiles - t);
      A* tile = acc != nullptr ? acc + (j / panel * rows + i) * panel : local;
      const char* asked = ahead(t, j / panel);
      kernels[asked != nullptr].at[height - 1][vectors - 1](a + i * kDepthPitch, b.data + j / panel * b.panel_pitch,
                                                            b.row_pitch, k, tile, !first, asked);
      if (last) store(i, height, j / panel, tile);
      i += height;
    }
  }
}

// Rows [first, first + height) of C, whose A lies at one pitch from `at` on.
struct RowTile {
  int64_t at, first, height;
};

// As above, of tiles whose rows are Runs behind `a`; `b` are panels of their own.
template <typename A, typename Store>
CONVKIT_INLINE void multiply_runs(const RowTile* tiles, int64_t count, int64_t rows, int64_t cols, const Runs& runs,
                                  const A* a, const A* b, A* acc, bool first, bool last, const Store& store) {
  constexpr int64_t panel = kPanel<A>;
  const GemmRunsKernels<A>& kernels = gemm_runs_kernels(A(0));
  alignas(64) A local[kTileRows * panel];
  for (int64_t j = 0; j < cols; j += panel, b += runs.size() * panel) {
    const int vectors = cols - j > kLanes<A> ? 2 : 1;
    for (int64_t t = 0; t < count; ++t) {
      const RowTile& r = tiles[t];
      A* tile = acc != nullptr ? acc + (j / panel * rows + r.first) * panel : local;
      kernels.at[r.height - 1][vectors - 1](a + r.at, runs, b, tile, !first);
      if (last) store(r.first, r.height, j / panel, tile);
    }
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
