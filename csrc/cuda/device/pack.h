// A few neighbouring elements that are read and written as one machine word of up to 16 bytes.
#pragma once

#include "core/dtype.h"
#include "cuda/device/platform.h"

namespace convkit::cuda {

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  static_assert(sizeof(T) * kCount <= 16, "the GPU moves 16 bytes at the most");
  T v[kCount];
};

// Elements of T in 16 bytes.
template <typename T>
constexpr int kPackCount = static_cast<int>(16 / sizeof(T));

template <typename T, int kCount>
CONVKIT_DEVICE Pack<T, kCount> load_pack(const T* from) {
#ifndef __CUDACC__
  if (reinterpret_cast<uintptr_t>(from) % (sizeof(T) * kCount) != 0)
    simt::fail("misaligned read of %d bytes", static_cast<int>(sizeof(T) * kCount));
#endif
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <typename T, int kCount>
CONVKIT_DEVICE void store_pack(T* to, const Pack<T, kCount>& pack) {
#ifndef __CUDACC__
  if (reinterpret_cast<uintptr_t>(to) % (sizeof(T) * kCount) != 0)
    simt::fail("misaligned write of %d bytes", static_cast<int>(sizeof(T) * kCount));
#endif
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

}  // namespace convkit::cuda
