// Memory before and after its use: asked for ahead of it, and written past the caches.
//
// Processors foresee reads and writes in order, but only to the end of a page of 4 KB; planes and rows of planes are in
// order from page to page. A store to a line that is in no cache reads it from memory first, and the line is written
// back later: twice the traffic of the result. Stores that go past the caches write it once, if they fill whole lines
// at a time.
#pragma once

#include "core/tensor_view.h"
#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// How many bytes ahead of what is used memory is asked for. (Beyond the end of a tensor that does nothing.)
constexpr int64_t kAhead = 4096, kLine = 64;

template <typename T>
CONVKIT_INLINE void ask_to_read(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kAhead);
}
template <typename T>
CONVKIT_INLINE void ask_to_write(T* p) {
  __builtin_prefetch(reinterpret_cast<char*>(p) + kAhead, 1);
}
// The same for n elements in a row.
template <typename T>
CONVKIT_INLINE void ask_to_read(const T* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLine / static_cast<int64_t>(sizeof(T))) ask_to_read(p + i);
}
template <typename T>
CONVKIT_INLINE void ask_to_write(T* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLine / static_cast<int64_t>(sizeof(T))) ask_to_write(p + i);
}

constexpr int64_t kLeastStreamed = int64_t{8} << 20;  // bytes; of less, much is still in the cache when it is read

// A store past the caches, to a multiple of kVectorBytes.
template <typename T, typename V>
CONVKIT_INLINE void stream_vec(T* p, V v) {
  static_assert(sizeof(V) == kVectorBytes, "one whole vector");
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  __builtin_memcpy(p, &v, sizeof(v));
#endif
}

// To be called when a task has stored so: what other threads are told afterwards then comes after the stores.
CONVKIT_INLINE void end_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

CONVKIT_INLINE bool streaming_pays(const TensorView& dx) { return numel(dx) * dtype_bytes(dx.dtype) >= kLeastStreamed; }

// Whether vectors of channels can be stored past the caches.
CONVKIT_INLINE bool streams_in_vectors(const TensorView& t) {
  const int64_t bytes = dtype_bytes(t.dtype);
  if (reinterpret_cast<uintptr_t>(t.data) % kVectorBytes != 0 || t.size[kC] * bytes % kVectorBytes != 0) return false;
  const Dim others[] = {kN, kD, kH, kW};
  for (const Dim dim : others)
    if (t.stride[dim] * bytes % kVectorBytes != 0) return false;
  return true;
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
