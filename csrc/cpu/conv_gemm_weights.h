// Packing of filters for conv_gemm: rows of A (result channel by result channel) or panels of B.
#pragma once

#include "cpu/conv_gemm_pixels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// A filter as the gather sees it: element strides of the result channel, the summed channel and the taps.
template <typename T>
struct Weights {
  const T* data;  // of the group
  int64_t row, channel;
  int64_t axis[kMaxSpatial];

  CONVKIT_INLINE int64_t tap_offset(const Tap& tap) const {
    return tap.filter[0] * axis[0] + tap.filter[1] * axis[1] + tap.filter[2] * axis[2];
  }
};

// Whether taps [0, taps) of the gather lie one after the other from the filter's start.
template <typename T>
CONVKIT_INLINE bool taps_contiguous(const Weights<T>& w, const Gather& g) {
  int64_t expected = 1;
  for (int i = kMaxSpatial - 1; i >= 0; --i) {
    const TapAxis& tap = g.tap[i];
    if (tap.count > 1 && (tap.step != 1 || w.axis[i] != expected)) return false;
    if (tap.first != 0) return false;
    expected *= tap.count;
  }
  return true;
}

// dst[i * kDepthPitch + channel * taps + tap] for result channels [row, row + rows).
template <typename T>
CONVKIT_INLINE void pack_weight_rows(accumulate_t<T>* dst, const Gather& g, const Weights<T>& w, int64_t row,
                                     int64_t rows, const DepthBlock& d) {
  const T* from = w.data + row * w.row + d.channel * w.channel;
  const bool contiguous = d.taps == g.taps && taps_contiguous(w, g);
  if (contiguous && w.channel == d.taps) {
    for (int64_t i = 0; i < rows; ++i) copy_run(dst + i * kDepthPitch, from + i * w.row, 1, d.size());
    return;
  }
  if (contiguous && d.taps > 1) {
    for (int64_t c = 0; c < d.channels; ++c)
      for (int64_t i = 0; i < rows; ++i)
        copy_run(dst + i * kDepthPitch + c * d.taps, from + i * w.row + c * w.channel, 1, d.taps);
    return;
  }
  for (int64_t t = 0; t < d.taps; ++t) {
    const T* tap = from + w.tap_offset(tap_at(g, d.tap + t));
    for (int64_t c = 0; c < d.channels; ++c)
      for (int64_t i = 0; i < rows; ++i) dst[i * kDepthPitch + c * d.taps + t] = load(tap + i * w.row + c * w.channel);
  }
}

// dst[panel][tap * channels + channel][column] for result channels [row, row + rows); `lines` has room for
// kPanel rows of kDepthPitch. Columns up to the next full vector are zero.
template <typename T>
CONVKIT_INLINE void pack_weight_panels(accumulate_t<T>* dst, accumulate_t<T>* lines, const Gather& g,
                                       const Weights<T>& w, int64_t row, int64_t rows, const DepthBlock& d) {
  using A = accumulate_t<T>;
  constexpr int64_t panel = kPanel<A>;
  const int64_t k = d.size();
  for (int64_t j = 0; j < rows; j += panel, dst += k * panel) {
    const int64_t cols = rows - j < panel ? rows - j : panel;
    const int64_t filled = (cols + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
    const T* from = w.data + (row + j) * w.row + d.channel * w.channel;
    for (int64_t t = 0; t < d.taps; ++t) {
      const T* tap = from + w.tap_offset(tap_at(g, d.tap + t));
      if (w.row == 1 || w.channel != 1) {
        for (int64_t c = 0; c < d.channels; ++c)
          copy_run(dst + (t * d.channels + c) * panel, tap + c * w.channel, w.row, cols);
      } else {
        for (int64_t i = 0; i < cols; ++i)
          copy_run(lines + i * kDepthPitch + t * d.channels, tap + i * w.row, 1, d.channels);
      }
    }
    if (w.row != 1 && w.channel == 1) transpose(dst, panel, lines, kDepthPitch, cols, k);
    for (int64_t at = 0; at < k; ++at)
      for (int64_t i = cols; i < filled; ++i) dst[at * panel + i] = A(0);
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
