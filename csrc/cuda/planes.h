// Planes of a tensor in 32-bit positions behind 64-bit bases.
#pragma once

#include <initializer_list>

#include "cuda/walk.h"

namespace convkit::cuda {

// Where elements of a plane lie behind its first.
struct PlaneStrides {
  int32_t d, h, w;
  CONVKIT_DEVICE int32_t at(int32_t in_d, int32_t in_h, int32_t in_w) const { return in_d * d + in_h * h + in_w * w; }
  CONVKIT_DEVICE int32_t at(const Window& o) const { return at(o.d, o.h, o.w); }
};

// A tensor whose planes are addressed so.
struct PlaneView : TensorView {
  PlaneStrides plane;
};

// False if a plane reaches too far.
inline bool narrow(const TensorView& t, PlaneView* view) {
  int64_t reach = 0;
  for (const Dim dim : {kD, kH, kW})
    if (t.size[dim] > 1) reach += (t.size[dim] - 1) * (t.stride[dim] < 0 ? -t.stride[dim] : t.stride[dim]);
  if (reach > 0x7fffffff) return false;
  const auto stride = [&](Dim dim) { return static_cast<int32_t>(t.size[dim] > 1 ? t.stride[dim] : 0); };
  *view = PlaneView{t, {stride(kD), stride(kH), stride(kW)}};
  return true;
}

// A 64-bit base, and 32 bits within the plane.
CONVKIT_DEVICE int64_t offset(const PlaneView& t, int64_t n, int64_t c, const Window& at) {
  return n * t.stride[kN] + c * t.stride[kC] + t.plane.at(at);
}

// Whether planes have no gaps.
inline bool dense_planes(const TensorView& t) {
  int64_t distance = 1;
  for (const Dim dim : {kW, kH, kD}) {
    if (t.size[dim] > 1 && t.stride[dim] != distance) return false;
    distance *= t.size[dim];
  }
  return true;
}

}  // namespace convkit::cuda
