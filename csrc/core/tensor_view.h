// A tensor as kernels see it: a pointer, a type, and five sizes and strides.
//
// Activations are N C D H W, filters K C T R S, whatever the number of spatial dimensions: missing
// leading ones (d, then h) have size 1 and stride 0. Strides are in elements, not bytes.
#pragma once

#include "core/dtype.h"

namespace convkit {

enum Dim { kN = 0, kC = 1, kD = 2, kH = 3, kW = 4, kDims = 5 };

struct TensorView {
  void* data;
  DType dtype;
  int64_t size[kDims];
  int64_t stride[kDims];
};

inline namespace CONVKIT_ISA {

CONVKIT_INLINE int64_t numel(const TensorView& t) {
  return t.size[kN] * t.size[kC] * t.size[kD] * t.size[kH] * t.size[kW];
}

template <typename T>
CONVKIT_INLINE T* data(const TensorView& t) {
  return static_cast<T*>(t.data);
}

CONVKIT_INLINE int64_t offset(const TensorView& t, int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) {
  return n * t.stride[kN] + c * t.stride[kC] + d * t.stride[kD] + h * t.stride[kH] + w * t.stride[kW];
}

// The `count` slices of `t` from `first` on along `dim`; of no tensor, none.
CONVKIT_INLINE TensorView sliced(const TensorView& t, Dim dim, int64_t first, int64_t count) {
  TensorView part = t;
  if (t.data == nullptr) return part;
  part.data = static_cast<char*>(t.data) + first * t.stride[dim] * dtype_bytes(t.dtype);
  part.size[dim] = count;
  return part;
}

// Whether elements that follow each other along `dim` are neighbours in memory.
CONVKIT_INLINE bool unit_stride(const TensorView& t, Dim dim) { return t.size[dim] == 1 || t.stride[dim] == 1; }

}  // namespace CONVKIT_ISA
}  // namespace convkit
