// A few neighbouring elements that are read and written as one machine word of up to 16 bytes.
#pragma once

#include "core/dtype.h"
#include "cuda/device/platform.h"

namespace convkit::cuda {

constexpr int kPackBytes = 16;  // the most that the GPU moves at once

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  static_assert(sizeof(T) * kCount <= kPackBytes, "wider than a machine word");
  T v[kCount];
};

// Elements in kPackBytes.
template <typename T>
constexpr int kPackCount = kPackBytes / static_cast<int>(sizeof(T));
inline int64_t pack_count(DType dtype) { return kPackBytes / dtype_bytes(dtype); }

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
