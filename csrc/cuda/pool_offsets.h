// Window offsets of one thread: a pack of them as one word where they have one byte.
#pragma once

#include "core/pool_window.h"
#include "cuda/device/pack.h"

namespace convkit::cuda {

template <int kCount>
CONVKIT_DEVICE void store_offsets(const TensorView& offsets, int64_t at, int64_t bytes,
                                  const int32_t (&chosen)[kCount]) {
  if (kCount > 1 && bytes == 1) {
    Pack<uint8_t, kCount> pack;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) pack.v[j] = static_cast<uint8_t>(chosen[j]);
    return store_pack(static_cast<uint8_t*>(offsets.data) + at, pack);
  }
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) store_tap(offsets.data, at + j, bytes, chosen[j]);
}

template <int kCount>
CONVKIT_DEVICE void load_offsets(const TensorView& offsets, int64_t at, int64_t bytes, int32_t (&taps)[kCount]) {
  if (kCount > 1 && bytes == 1) {
    const auto pack = load_pack<uint8_t, kCount>(static_cast<const uint8_t*>(offsets.data) + at);
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) taps[j] = pack.v[j];
    return;
  }
  CONVKIT_UNROLL
  for (int j = 0; j < kCount; ++j) taps[j] = static_cast<int32_t>(load_tap(offsets.data, at + j, bytes));
}

}  // namespace convkit::cuda
