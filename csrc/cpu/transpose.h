// Planes of some channels to positions x channels and back, in scratch memory: small planes leave vectors
// along W mostly empty, but are cheap to turn.
#pragma once

#include <utility>

#include "core/tensor_view.h"
#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Transposes a square of vectors: log2(lanes) perfect shuffles.
template <typename A>
CONVKIT_INLINE void transpose(vector_t<A> (&row)[Vector<A>::lanes]) {
  constexpr int n = Vector<A>::lanes;
#pragma GCC unroll 4
  for (int stage = 1; stage < n; stage *= 2) {
    vector_t<A> next[n];
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave<0, A>(row[i], row[i + n / 2]);
      next[2 * i + 1] = interleave<1, A>(row[i], row[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) row[i] = next[i];
  }
}

// Lane by lane from the lower (or upper) halves of a and b.
template <int kUpper, typename V, int... i>
CONVKIT_INLINE V interleave_bytes(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (kUpper * 8 + i / 2 + i % 2 * 16)...);
}

// to[j][i] = from[i][j] of bytes, in squares of 16; the last ones overlap those before.
CONVKIT_INLINE void transpose_bytes(const uint8_t* from, int64_t from_pitch, int64_t rows, int64_t columns, uint8_t* to,
                                    int64_t to_pitch) {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  constexpr int n = 16;
  using Lanes16 = std::make_integer_sequence<int, n>;
  if (rows < n || columns < n) {
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t i = 0; i < rows; ++i) to[j * to_pitch + i] = from[i * from_pitch + j];
    return;
  }
  for (int64_t next_row = 0; next_row < rows; next_row += n)
    for (int64_t next_column = 0; next_column < columns; next_column += n) {
      const int64_t i = next_row + n <= rows ? next_row : rows - n;
      const int64_t j = next_column + n <= columns ? next_column : columns - n;
      Bytes row[n], next[n];
#pragma GCC unroll 16
      for (int k = 0; k < n; ++k) __builtin_memcpy(row + k, from + (i + k) * from_pitch + j, n);
#pragma GCC unroll 4
      for (int stage = 1; stage < n; stage *= 2) {
#pragma GCC unroll 8
        for (int k = 0; k < n / 2; ++k) {
          next[2 * k] = interleave_bytes<0>(row[k], row[k + n / 2], Lanes16{});
          next[2 * k + 1] = interleave_bytes<1>(row[k], row[k + n / 2], Lanes16{});
        }
#pragma GCC unroll 16
        for (int k = 0; k < n; ++k) row[k] = next[k];
      }
#pragma GCC unroll 16
      for (int k = 0; k < n; ++k) __builtin_memcpy(to + (j + k) * to_pitch + i, row + k, n);
    }
}

// A plane as rows of elements `step` apart: one row if that is how all of them lie. The stride of a dimension of one
// element may be anything, so the step is that of the last dimension that has more.
struct PlaneRows {
  int64_t count, length, step, per_slice, row_stride, slice_stride;
  CONVKIT_INLINE int64_t start(int64_t row) const {
    return row / per_slice * slice_stride + row % per_slice * row_stride;
  }
};
CONVKIT_INLINE PlaneRows plane_rows(const TensorView& t) {
  const int64_t d = t.size[kD], h = t.size[kH], w = t.size[kW];
  const int64_t step = w > 1 ? t.stride[kW] : h > 1 ? t.stride[kH] : d > 1 ? t.stride[kD] : 1;
  const bool rows_meet = h == 1 || t.stride[kH] == w * step, slices_meet = d == 1 || t.stride[kD] == h * w * step;
  if (rows_meet && slices_meet) return {1, d * h * w, step, 1, 0, 0};
  return {d * h, w, step, h, t.stride[kH], t.stride[kD]};
}

// Channels [c, c + count), count >= lanes, of image n to `to`[position * count + channel].
template <typename T>
void planes_to_channels(const TensorView& t, int64_t n, int64_t c, int64_t count, T* to) {
  using A = accumulate_t<T>;
  const PlaneRows rows = plane_rows(t);
  const int64_t stride = t.stride[kC];
  for (int64_t r = 0; r < rows.count; ++r, to += rows.length * count) {
    const T* from = data<T>(t) + offset(t, n, c, 0, 0, 0) + rows.start(r);
    if constexpr (sizeof(T) == sizeof(A) && sizeof(T) >= 4) {
      constexpr int lanes = Vector<A>::lanes;
      if (rows.step == 1) {
        for (int64_t i = 0; i < rows.length; i += lanes) {
          const int valid = rows.length - i < lanes ? static_cast<int>(rows.length - i) : lanes;
          for (int64_t first = 0; first < count; first += lanes) {
            const int64_t b = first + lanes <= count ? first : count - lanes;
            vector_t<A> square[lanes];
#pragma GCC unroll 16
            for (int j = 0; j < lanes; ++j) {
              const T* at = from + (b + j) * stride + i;
              square[j] = valid == lanes ? load_vector<T>(at) : load_partial<T>(at, valid);
            }
            transpose<A>(square);
#pragma GCC unroll 16
            for (int j = 0; j < lanes; ++j)
              if (j < valid) store_vector<T>(to + (i + j) * count + b, square[j]);
          }
        }
        continue;
      }
    }
    for (int64_t b = 0; b < count; ++b)
      for (int64_t i = 0; i < rows.length; ++i) to[i * count + b] = from[b * stride + i * rows.step];
  }
}

// The way back.
template <typename T>
void channels_to_planes(const T* from, const TensorView& t, int64_t n, int64_t c, int64_t count) {
  using A = accumulate_t<T>;
  const PlaneRows rows = plane_rows(t);
  const int64_t stride = t.stride[kC];
  for (int64_t r = 0; r < rows.count; ++r, from += rows.length * count) {
    T* to = data<T>(t) + offset(t, n, c, 0, 0, 0) + rows.start(r);
    if constexpr (sizeof(T) == sizeof(A) && sizeof(T) >= 4) {
      constexpr int lanes = Vector<A>::lanes;
      if (rows.step == 1) {
        for (int64_t i = 0; i < rows.length; i += lanes) {
          const int valid = rows.length - i < lanes ? static_cast<int>(rows.length - i) : lanes;
          for (int64_t first = 0; first < count; first += lanes) {
            const int64_t b = first + lanes <= count ? first : count - lanes;
            vector_t<A> square[lanes];
#pragma GCC unroll 16
            for (int j = 0; j < lanes; ++j)
              square[j] = j < valid ? load_vector<T>(from + (i + j) * count + b) : vector_t<A>{};
            transpose<A>(square);
#pragma GCC unroll 16
            for (int j = 0; j < lanes; ++j) {
              T* at = to + (b + j) * stride + i;
              if (valid == lanes)
                store_vector<T>(at, square[j]);
              else
                store_partial<T>(at, square[j], valid);
            }
          }
        }
        continue;
      }
    }
    for (int64_t b = 0; b < count; ++b)
      for (int64_t i = 0; i < rows.length; ++i) to[b * stride + i * rows.step] = from[i * count + b];
  }
}

// `t`'s one image of `count` channels from c on, as if it lay at `block`, positions x channels. Channel c of the
// view is the block's first, so that channel numbers stay the tensor's.
template <typename T>
CONVKIT_INLINE TensorView block_view(const TensorView& t, T* block, int64_t c, int64_t count) {
  TensorView v = t;
  v.data = block - c;
  v.stride[kN] = 0;
  v.stride[kC] = 1;
  v.stride[kW] = count;
  v.stride[kH] = t.size[kW] * count;
  v.stride[kD] = t.size[kH] * v.stride[kH];
  return v;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
