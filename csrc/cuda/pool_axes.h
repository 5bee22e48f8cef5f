// The windows of a pooling in the 32-bit integers that GPU kernels count positions in, and the loops over them.
#pragma once

#include "core/pool_window.h"
#include "core/status.h"
#include "cuda/planes.h"

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
constexpr Status kFloatingOnly{"GPU kernels of pooling have floating dtypes only"};

// The elements of one window that lie in the input.
struct Box {
  Taps1d<int32_t> d, h, w;
};
CONVKIT_DEVICE Box box_of(const PoolAxes& p, const Window& window) {
  return Box{tap_range(p.d, window.d), tap_range(p.h, window.h), tap_range(p.w, window.w)};
}

// The tap of the first of them; 0 if there is none, as where dilation jumps over the input.
CONVKIT_DEVICE int32_t first_tap(const PoolAxes& p, const Box& box) {
  const bool any = box.d.begin < box.d.end && box.h.begin < box.h.end && box.w.begin < box.w.end;
  return any ? p.number(box.d.begin, box.h.begin, box.w.begin) : 0;
}

// Calls f(element, tap) for each of them in row-major order; `element` is its distance from the plane's first.
template <typename F>
CONVKIT_DEVICE void for_taps(const PoolAxes& p, const Box& box, const PlaneStrides& x, const F& f) {
  const int32_t first = box.w.start * x.w, step = p.w.dilation * x.w;
  for (int32_t a = box.d.begin; a < box.d.end; ++a)
    for (int32_t b = box.h.begin; b < box.h.end; ++b) {
      const int32_t row = first + (box.d.start + a * p.d.dilation) * x.d + (box.h.start + b * p.h.dilation) * x.h;
      for (int32_t s = box.w.begin; s < box.w.end; ++s) f(row + s * step, p.number(a, b, s));
    }
}

// What a mean of this window's elements divides their sum by.
template <typename A>
CONVKIT_DEVICE A divisor_of(const PoolAxes& p, const Window& window) {
  if (p.divisor_override != 0) return static_cast<A>(p.divisor_override);
  return static_cast<A>(divisor_taps(p.d, p.count_include_pad, window.d)) *
         static_cast<A>(divisor_taps(p.h, p.count_include_pad, window.h)) *
         static_cast<A>(divisor_taps(p.w, p.count_include_pad, window.w));
}

// Calls f(window, tap) for each window that reads the element `at`, by its tap, in row-major order.
template <typename F>
CONVKIT_DEVICE void for_windows(const PoolAxes& p, const Window& at, const F& f) {
  for_readers(p.d, at.d, [&](int32_t o, int32_t a) {
    for_readers(p.h, at.h, [&](int32_t q, int32_t b) {
      for_readers(p.w, at.w, [&](int32_t r, int32_t s) { f(Window{o, q, r}, p.number(a, b, s)); });
    });
  });
}

}  // namespace convkit::cuda
