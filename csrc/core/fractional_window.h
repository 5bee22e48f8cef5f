// Where the windows of fractional max pooling start (Graham, "Fractional Max-Pooling", arXiv:1412.6071).
//
// With alpha = (length - kernel) / (outputs - 1) and a sample u in [0, 1), window i < outputs - 1 starts at
// trunc((i + u) alpha) - trunc(u alpha), the last one at length - kernel. Every operation is rounded to the input's
// dtype, as PyTorch does: another precision would choose other windows.
#pragma once

#include "core/dtype.h"
#include "core/spatial.h"

namespace convkit {

struct FractionalProblem {
  int64_t n, c;
  Spatial in, kernel, out;  // D H W
  int spatial_dims;         // of the tensors that the caller sees
};

inline namespace CONVKIT_ISA {

template <typename T>
CONVKIT_INLINE accumulate_t<T> rounded(accumulate_t<T> v) {
  T stored;
  store(&stored, v);
  return load(&stored);
}

// Truncation, and one value for all that no 32-bit integer holds: infinities, NaN, huge samples.
template <typename A>
CONVKIT_INLINE int64_t truncated(A v) {
  constexpr A kLimit = 2147483648.0f;
  return v > -kLimit && v < kLimit ? static_cast<int64_t>(v) : INT32_MIN;
}

// The starts along one dimension, from a sample of the input's dtype T.
template <typename T>
struct FractionalStarts {
  using A = accumulate_t<T>;
  A sample, alpha;
  int64_t base, last, outputs;

  CONVKIT_INLINE FractionalStarts(const T* u, int64_t length, int64_t kernel, int64_t out)
      : sample(load(u)), alpha(0), base(0), last(length - kernel), outputs(out) {
    if (outputs < 2) return;
    alpha = rounded<T>(rounded<T>(static_cast<A>(last)) / rounded<T>(static_cast<A>(outputs - 1)));
    base = truncated(rounded<T>(sample * alpha));
  }
  // Always inside [0, length - kernel]: samples beyond [0, 1), and roundings of 16-bit types, can lead outside.
  CONVKIT_INLINE int64_t operator()(int64_t i) const {
    if (i == outputs - 1) return last;
    const A shifted = rounded<T>(rounded<T>(static_cast<A>(i)) + sample);
    const int64_t start = truncated(rounded<T>(shifted * alpha)) - base;
    return start < 0 ? 0 : start > last ? last : start;
  }
};

// Which of a plane's samples belongs to spatial dimension `dim` of D H W: PyTorch orders them (W, H) and (D, H, W).
CONVKIT_INLINE int fractional_sample(int spatial_dims, int dim) {
  return spatial_dims == 3 ? dim : spatial_dims == 2 ? 2 - dim : 0;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
