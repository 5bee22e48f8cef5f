// Copies of input rows as the sliding kernels want them: in the accumulate type, zero-padded, and with every
// `step`-th column together, so that the vector loop always reads neighbours whatever the stride.
#pragma once

#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {

template <typename A>
CONVKIT_INLINE void zero_row(A* dst, int64_t count) {
  for (int64_t i = 0; i < count; i += Vector<A>::lanes) store_vector<A>(dst + i, vector_t<A>{});
}

// Staged column u = source column first + u, for u < columns; it lies at dst[u % step * pitch + u / step].
// What lies outside the source, and the rest of the row, is zero. Needs pitch >= (columns - 1) / step + 1 + lanes,
// and lanes elements that may be overwritten behind the row's step * pitch.
template <typename T>
CONVKIT_INLINE void stage_row(const T* src, int64_t stride, int64_t length, int64_t first, int64_t columns,
                              accumulate_t<T>* dst, int64_t step, int64_t pitch) {
  using A = accumulate_t<T>;
  constexpr int lanes = Vector<A>::lanes;
  const int64_t begin = first < 0 ? 0 : first, end = length < first + columns ? length : first + columns;
  const int64_t count = end - begin, skip = begin - first;
  if (count <= 0) return zero_row(dst, step * pitch);
  const T* from = src + begin * stride;
  int64_t i = 0;
  if (step == 1 && stride == 1) {
    zero_row(dst, skip);
    A* to = dst + skip;
    for (; i + lanes <= count; i += lanes) store_vector<A>(to + i, load_vector<T>(from + i));
    if (i < count) {
      store_vector<A>(to + i, load_partial<T>(from + i, static_cast<int>(count - i)));
      i += lanes;
    }
    return zero_row(to + i, pitch - skip - i);
  }
  zero_row(dst, step * pitch);
  if (step == 2 && stride == 1) {
    A* even = dst + skip % 2 * pitch + skip / 2;
    A* odd = dst + (skip + 1) % 2 * pitch + (skip + 1) / 2;
    for (; i < count; i += 2 * lanes) {
      vector_t<A> a, b{};
      if (i + 2 * lanes <= count) {
        a = load_vector<T>(from + i);
        b = load_vector<T>(from + i + lanes);
      } else if (i + lanes < count) {
        a = load_vector<T>(from + i);
        b = load_partial<T>(from + i + lanes, static_cast<int>(count - i - lanes));
      } else {
        a = load_partial<T>(from + i, static_cast<int>(count - i));
      }
      store_vector<A>(even + i / 2, every_second<0, A>(a, b));
      store_vector<A>(odd + i / 2, every_second<1, A>(a, b));
    }
    return;
  }
  int64_t part = skip % step, at = skip / step;
  for (; i < count; ++i) {
    dst[part * pitch + at] = load(from + i * stride);
    if (++part == step) {
      part = 0;
      ++at;
    }
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
