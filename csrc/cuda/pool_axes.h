// The windows of a pooling in the 32-bit integers that GPU kernels count positions in.
#pragma once

#include "core/pool_window.h"
#include "core/status.h"

namespace convkit::cuda {

struct PoolAxes {
  WindowAxis<int32_t> d, h, w;
  bool count_include_pad;
  int32_t divisor_override;

  // Element `tap` of a window.
  CONVKIT_HOST_DEVICE int32_t number(int32_t a, int32_t b, int32_t s) const {
    return (a * h.kernel + b) * w.kernel + s;
  }
};

// False if a position, with its padding and reach, needs more than 32 bits.
inline bool narrow(const PoolProblem& p, PoolAxes* axes) {
  constexpr int64_t kMost = 0x7fffffff;
  for (int i = 0; i < 3; ++i)
    if (p.in[i] + p.pad_before[i] + p.pad_after[i] + p.kernel[i] * p.dilation[i] + p.stride[i] > kMost / 2 ||
        p.out[i] > kMost / 2)
      return false;
  if (volume(p.kernel) > kMost || p.divisor_override > kMost || p.divisor_override < -kMost) return false;
  *axes = PoolAxes{window_axis<int32_t>(p, 0), window_axis<int32_t>(p, 1), window_axis<int32_t>(p, 2),
                   p.count_include_pad, static_cast<int32_t>(p.divisor_override)};
  return true;
}

constexpr Status kTooWide{"GPU kernels of pooling count positions in 32 bits"};

}  // namespace convkit::cuda
