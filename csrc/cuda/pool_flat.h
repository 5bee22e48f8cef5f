// Flat indices into planes: a row-major position in the D H W plane of one (n, c).
#pragma once

#include "core/status.h"
#include "cuda/walk.h"

namespace convkit::cuda {

// A plane's shape, which its positions are read by.
struct Plane {
  Divider w, h;
  int32_t volume;

  CONVKIT_DEVICE Window at(int32_t position) const {
    Window window;
    window.w = w.take(&position);
    window.h = h.take(&position);
    window.d = position;
    return window;
  }
  CONVKIT_DEVICE int32_t position(const Window& at) const { return (at.d * h.divisor() + at.h) * w.divisor() + at.w; }
};

// False if its positions need more than 32 bits.
inline bool plane_of(const TensorView& t, Plane* plane) {
  const int64_t volume = t.size[kD] * t.size[kH] * t.size[kW];
  if (volume > 0x7fffffff / 2) return false;
  if (volume > 0) *plane = Plane{Divider(t.size[kW]), Divider(t.size[kH]), static_cast<int32_t>(volume)};
  return true;
}

constexpr Status kPlaneTooLarge{"GPU kernels on flat indices count the positions of a plane in 32 bits"};
constexpr Status kFlatFloatingOnly{"GPU kernels on flat indices have floating dtypes only"};

}  // namespace convkit::cuda
