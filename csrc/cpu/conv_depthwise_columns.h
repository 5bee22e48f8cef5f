// The kernels of conv_depthwise_channels.cpp: one or two result rows, seven columns of them, all vectors of channels.
//
// A loaded source vector serves every column whose window holds it and, with two result rows, both of them. Two rows
// need 14 accumulators and two filter rows of up to 8 taps: 31 of AVX-512's 32 registers; seven accumulators alone
// would also leave the two FMA units waiting for each other's results (7 < 2 units x 4 cycles). With 16 registers a
// kernel computes one row. A result is summed over source rows, then columns, both ascending, whichever kernel it is.
#pragma once

#include "cpu/conv_emit.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kColumns = 7;                            // divides the widths of most networks
constexpr int kMostRows = kVectorBytes == 64 ? 2 : 1;  // result rows of one call

// A source row that some result row of the call reads.
struct SourceRow {
  int64_t source;             // its offset
  int64_t filter[kMostRows];  // offset of the filter row that meets it in each result row; -1: none
};

// What later calls read first, to be prefetched meanwhile: `parts` runs of lines that start at `at` + offset[i]. Vector
// v takes the `lines` lines, `distance` elements apart, from v * share on.
template <typename T>
struct Ahead {
  const T* at;
  const int64_t* offset;
  int64_t parts, lines, distance, share;
};

// One call: results [row][column][channel] of one phase of columns.
template <typename T>
struct Block {
  const T* source;  // position (0, 0, 0) of the first channel
  const accumulate_t<T>* filter;
  int64_t vectors, last_channel;  // vector i starts at channel i * lanes, the last at last_channel at most
  int64_t filter_pitch;           // between vectors

  const SourceRow* row;
  int64_t rows;
  Ahead<T> ahead;
  int64_t columns, src_step, step;  // tap columns, their distance, the results' distance
  int64_t width, pitch;             // source columns, and their distance in memory
  int64_t at;                       // source column of the first tap of the first result

  const Emitter<T>* emitter;
  int64_t channel;  // the first one's number
  T* to;
  const T* residual;
  int64_t row_step, column_step, residual_row_step, residual_column_step;
  int count;   // columns, up to kColumns
  bool plain;  // no activation, no residual
};

template <int kValue>
struct Int {
  static constexpr int value = kValue;
};

// Source column `at` exists. Unsigned: one comparison for both ends.
template <typename T>
CONVKIT_INLINE bool inside(const Block<T>& b, int64_t at) {
  return static_cast<uint64_t>(at) < static_cast<uint64_t>(b.width);
}

template <typename T>
__attribute__((noinline)) void emit_columns(const Block<T>& b, int64_t c, int row, const vector_t<accumulate_t<T>>* v,
                                            vector_t<accumulate_t<T>> scale, vector_t<accumulate_t<T>> bias) {
  T* to = b.to + c + row * b.row_step;
  if (b.residual == nullptr) return b.emitter->emit_rows(v, b.count, scale, bias, to, b.column_step, lanes_of<T>());
  const int64_t channel_step = b.emitter->e.residual.stride[kC];
  const T* residual = b.residual + c * channel_step + row * b.residual_row_step;
  for (int j = 0; j < b.count; ++j)
    b.emitter->emit(v[j], scale, bias, to + j * b.column_step, 1, residual + j * b.residual_column_step, channel_step,
                    lanes_of<T>());
}

// Stores the sums of the vector whose first channel is `c`-th of the block.
template <typename T, int kRows>
CONVKIT_INLINE void finish(const Block<T>& b, int64_t c, const vector_t<accumulate_t<T>> (&acc)[kRows][kColumns]) {
  using V = vector_t<accumulate_t<T>>;
  const V scale = b.emitter->scales_of(b.channel + c, lanes_of<T>());
  const V bias = b.emitter->biases_of(b.channel + c, lanes_of<T>());
  if (b.plain && b.count == kColumns) {
    const int64_t column_step = b.column_step, next_row = b.row_step - kColumns * column_step;
    T* to = b.to + c;
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i, to += next_row)
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j, to += column_step) store_vector<T>(to, acc[i][j] * scale + bias);
    return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    V out[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) out[j] = acc[i][j];
    emit_columns<T>(b, c, i, out, scale, bias);
  }
}

// A prefetch past the end of the source is harmless.
template <typename T>
CONVKIT_INLINE void prefetch(const Ahead<T>& a, int64_t vector) {
  for (int64_t i = 0; i < a.parts; ++i) {
    const T* line = a.at + a.offset[i] + vector * a.share;
    for (int64_t u = 0; u < a.lines; ++u, line += a.distance) __builtin_prefetch(line, 0, 2);
  }
}

// Calls f(first channel, source, filter, sums) for every vector of the block and stores the sums.
template <typename T, int kRows, typename F>
CONVKIT_INLINE void for_vectors(const Block<T>& b, const F& f) {
  using A = accumulate_t<T>;
  const A* filter = b.filter;
  for (int64_t i = 0; i < b.vectors; ++i, filter += b.filter_pitch) {
    const int64_t c = i * lanes_of<T>() < b.last_channel ? i * lanes_of<T>() : b.last_channel;
    prefetch(b.ahead, i);
    vector_t<A> acc[kRows][kColumns];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) acc[r][j] = vector_t<A>{};
    f(b.source + c, filter, acc);
    finish<T, kRows>(b, c, acc);
  }
}

// Adds kTaps neighbouring taps of the filter rows of result rows [kFirst, kEnd); `source`: column of the first tap.
template <typename T, int kTaps, int kStep, bool kBorder, int kFirst, int kEnd, int kRows>
CONVKIT_INLINE void slide(const Block<T>& b, const T* source, const accumulate_t<T>* filter, const SourceRow& row,
                          int64_t first_tap, vector_t<accumulate_t<T>> (&acc)[kRows][kColumns]) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  const int64_t at = b.at + first_tap;
  source += row.source + at * b.pitch;
  V tap[kRows][kTaps];
#pragma GCC unroll 4
  for (int i = kFirst; i < kEnd; ++i)
#pragma GCC unroll 16
    for (int s = 0; s < kTaps; ++s)
      tap[i][s] = in_register(load_vector<A>(filter + row.filter[i] + (first_tap + s) * Vector<A>::lanes));
#pragma GCC unroll 32
  for (int u = 0; u < (kColumns - 1) * kStep + kTaps; ++u) {
    if (kBorder && !inside(b, at + u)) continue;
    const V x = in_register(load_vector<T>(source + u * b.pitch));
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      const int s = u - j * kStep;
      if (s < 0 || s >= kTaps) continue;
#pragma GCC unroll 4
      for (int i = kFirst; i < kEnd; ++i) acc[i][j] += tap[i][s] * x;
    }
  }
}

// Calls f(row, first result row, end) for every source row. One loop for each of the three cases: where they meet in
// branches, compilers load what the branches share ahead of them, and run out of registers.
template <int kRows, typename F>
CONVKIT_INLINE void for_rows(const SourceRow* row, int64_t rows, const F& f) {
  const SourceRow* end = row + rows;
  if constexpr (kRows == 1) {
    for (; row < end; ++row) f(*row, Int<0>{}, Int<1>{});
  } else {
    while (row < end) {
      for (; row < end && row->filter[1] < 0; ++row) f(*row, Int<0>{}, Int<1>{});
      for (; row < end && row->filter[0] >= 0 && row->filter[1] >= 0; ++row) f(*row, Int<0>{}, Int<2>{});
      for (; row < end && row->filter[0] < 0; ++row) f(*row, Int<1>{}, Int<2>{});
    }
  }
}

template <typename T, int kTaps, int kStep, bool kBorder, int kRows>
void fixed_columns(const Block<T>& b) {
  for_vectors<T, kRows>(b, [&](const T* source, const accumulate_t<T>* filter, auto& acc) {
    for_rows<kRows>(b.row, b.rows, [&](const SourceRow& row, auto first, auto end) {
      slide<T, kTaps, kStep, kBorder, first.value, end.value>(b, source, filter, row, 0, acc);
    });
  });
}

// Long filter rows, a chunk of taps at a time.
template <typename T, bool kBorder, int kRows>
void long_columns(const Block<T>& b) {
  constexpr int kChunk = 8;
  for_vectors<T, kRows>(b, [&](const T* source, const accumulate_t<T>* filter, auto& acc) {
    for_rows<kRows>(b.row, b.rows, [&](const SourceRow& row, auto first, auto end) {
      int64_t s = 0;
      for (; s + kChunk <= b.columns; s += kChunk)
        slide<T, kChunk, 1, kBorder, first.value, end.value>(b, source, filter, row, s, acc);
      for (; s < b.columns; ++s) slide<T, 1, 1, kBorder, first.value, end.value>(b, source, filter, row, s, acc);
    });
  });
}

template <typename T, bool kBorder>
void any_columns(const Block<T>& b) {
  using A = accumulate_t<T>;
  for_vectors<T, 1>(b, [&](const T* source, const A* filter, auto& acc) {
    for (int64_t i = 0; i < b.rows; ++i)
      for (int64_t s = 0; s < b.columns; ++s) {
        const vector_t<A> tap = load_vector<A>(filter + b.row[i].filter[0] + s * Vector<A>::lanes);
#pragma GCC unroll 16
        for (int j = 0; j < kColumns; ++j) {
          const int64_t from = b.at + j * b.step + s * b.src_step;
          if (!kBorder || inside(b, from)) acc[0][j] += tap * load_vector<T>(source + b.row[i].source + from * b.pitch);
        }
      }
  });
}

template <typename T>
using ColumnKernel = void (*)(const Block<T>&);
template <typename T>
struct ColumnKernels {
  int rows;                  // of a full call
  ColumnKernel<T> of[2][2];  // [one row, `rows`][interior, border]
};

template <typename T, int kTaps, int kStep>
CONVKIT_INLINE ColumnKernels<T> fixed_kernels() {
  return {kMostRows,
          {{fixed_columns<T, kTaps, kStep, false, 1>, fixed_columns<T, kTaps, kStep, true, 1>},
           {fixed_columns<T, kTaps, kStep, false, kMostRows>, fixed_columns<T, kTaps, kStep, true, kMostRows>}}};
}

template <typename T>
ColumnKernels<T> choose_kernels(int64_t taps, int64_t src_step, int64_t step) {
  if (src_step == 1 && step == 1) {
    switch (taps) {
      case 1: return fixed_kernels<T, 1, 1>();
      case 2: return fixed_kernels<T, 2, 1>();
      case 3: return fixed_kernels<T, 3, 1>();
      case 4: return fixed_kernels<T, 4, 1>();
      case 5: return fixed_kernels<T, 5, 1>();
      case 7: return fixed_kernels<T, 7, 1>();
      default:
        return {kMostRows,
                {{long_columns<T, false, 1>, long_columns<T, true, 1>},
                 {long_columns<T, false, kMostRows>, long_columns<T, true, kMostRows>}}};
    }
  }
  if (src_step == 1 && step == 2) {
    switch (taps) {
      case 3: return fixed_kernels<T, 3, 2>();
      case 5: return fixed_kernels<T, 5, 2>();
      case 7: return fixed_kernels<T, 7, 2>();
      default: break;
    }
  }
  return {1, {{any_columns<T, false>, any_columns<T, true>}, {any_columns<T, false>, any_columns<T, true>}}};
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
