// Three spatial values in (d, h, w) order: the only form in which they travel.
#pragma once

#include "core/macros.h"

namespace convkit {

constexpr int kMaxSpatial = 3;

struct Spatial {
  int64_t v[kMaxSpatial];
  CONVKIT_INLINE int64_t operator[](int i) const { return v[i]; }
  CONVKIT_INLINE int64_t& operator[](int i) { return v[i]; }
};

inline namespace CONVKIT_ISA {

CONVKIT_INLINE int64_t volume(const Spatial& s) { return s.v[0] * s.v[1] * s.v[2]; }

}  // namespace CONVKIT_ISA
}  // namespace convkit
