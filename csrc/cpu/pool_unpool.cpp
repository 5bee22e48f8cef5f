// max_unpool, plane_gather and its adjoint plane_scatter: planes addressed by flat indices.
//
// Computes  max_unpool     y[indices[o]] = x[o], zero elsewhere; of equal indices the last o in row-major order counts
//           plane_gather   y[o] = x[indices[o]]
//           plane_scatter  dx[indices[o]] += dy[o], added in row-major order of o
// Layout    any
// Mapping   A task owns whole planes (channels_last: some channels of an image), so the order of writes, and with it
//           every bit, does not depend on the threads. Zeros are written just ahead of the elements: a run of
//           indices is scanned for its largest, the plane is cleared up to there, then the run is stored. Indices
//           of a pooling rise with o, so cleared lines are still in the cache when their elements arrive.
// Memory    Planes without one step between their elements, and sums of 16-bit types (kept in float32), lie in
//           scratch memory while a task works on them.
// Limits    Floating types. An index outside of the plane selects 0 in plane_gather and adds nothing in
//           plane_scatter; max_unpool refuses it, and writes nothing outside of the plane.
#include "cpu/kernels.h"
#include "cpu/pool_flat.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kRunElements = 1024;      // 8 KB of indices, read twice
constexpr int64_t kScratchChannels = 32;    // of a block in scratch memory
constexpr int64_t kMostChannels = 1 << 20;  // of a block that is written in place

CONVKIT_INLINE void raise_to(uint64_t& top, uint64_t v) { top = v > top ? v : top; }

// The largest of `count` times `channels` indices; a negative one counts as larger than all others.
CONVKIT_INLINE uint64_t largest(const int64_t* indices, int64_t count, int64_t step, int64_t channels) {
  using V = Simd<uint64_t, kVectorBytes / 8>::type;
  constexpr int64_t kLanes = kVectorBytes / 8;
  uint64_t top = 0;
  if (step == channels) {
    channels *= count;
    count = 1;
  }
  V tops{};
  for (int64_t i = 0; i < count; ++i, indices += step) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const V v = load_raw<V>(indices + c);
      tops = v > tops ? v : tops;
    }
    for (; c < channels; ++c) raise_to(top, static_cast<uint64_t>(indices[c]));
  }
  for (int64_t i = 0; i < kLanes; ++i) raise_to(top, tops[i]);
  return top;
}

template <typename E>
CONVKIT_INLINE void clear(E* at, int64_t count) {
  const Vec<char> zeros{};  // all bits zero is zero in every floating type
  char* to = reinterpret_cast<char*>(at);
  int64_t bytes = count * static_cast<int64_t>(sizeof(E));
  for (; bytes >= kVectorBytes; bytes -= kVectorBytes, to += kVectorBytes) __builtin_memcpy(to, &zeros, kVectorBytes);
  for (int64_t i = 0; i < bytes; ++i) to[i] = 0;
}

// Receives the elements of one block: element i of channel c lies at data[i * step + c].
template <typename E, bool kAdd>
struct Receiver {
  E* data;
  int64_t step, channels;
  uint64_t volume, cleared;

  CONVKIT_INLINE void clear_to(uint64_t end) {
    if (end <= cleared) return;
    E* at = data + static_cast<int64_t>(cleared) * step;
    const int64_t positions = static_cast<int64_t>(end - cleared);
    cleared = end;
    if (step == channels) return clear(at, positions * channels);
    for (int64_t i = 0; i < positions; ++i, at += step) clear(at, channels);
  }
  template <typename T>
  CONVKIT_INLINE void put(uint64_t index, int64_t c, const T* from) {
    E* at = data + static_cast<int64_t>(index) * step + c;
    if constexpr (kAdd)
      *at = *at + load(from);
    else
      *at = *from;
  }
  // False if an index names no element; such elements are left out.
  template <typename T>
  CONVKIT_INLINE bool take(const T* x, int64_t x_step, const int64_t* indices, int64_t index_step, int64_t count) {
    const uint64_t top = largest(indices, count, index_step, channels);
    if (top < volume) {
      clear_to(top + 1);
      if (channels == 1)
        for (int64_t i = 0; i < count; ++i) put(static_cast<uint64_t>(indices[i * index_step]), 0, x + i * x_step);
      else
        for (int64_t i = 0; i < count; ++i)
          for (int64_t c = 0; c < channels; ++c)
            put(static_cast<uint64_t>(indices[i * index_step + c]), c, x + i * x_step + c);
      return true;
    }
    clear_to(volume);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < channels; ++c) {
        const uint64_t v = static_cast<uint64_t>(indices[i * index_step + c]);
        if (v < volume) put(v, c, x + i * x_step + c);
      }
    return false;
  }
};

// The planes of x, element by element, to where the indices say in y. *invalid is set if an index names no element.
template <typename T, bool kAdd>
Status scatter(const TensorView& x, const TensorView& indices, const TensorView& y, int* invalid) {
  using E = std::conditional_t<kAdd, accumulate_t<T>, T>;
  int64_t step = 0;
  const bool in_place = sizeof(E) == sizeof(T) && even_steps(y, &step);
  const bool wide = side_by_side(x) && side_by_side(indices) && side_by_side(y) && x.size[kC] > 1;
  const Blocks blocks(x.size[kN], x.size[kC], !wide ? 1 : in_place ? kMostChannels : kScratchChannels);
  const int64_t volume = plane_volume(y), rows = x.size[kD] * x.size[kH];
  Failure failure;
  for_units(blocks.count(), greater(volume, plane_volume(x)) * blocks.width, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t n = blocks.image(block), c = blocks.channel(block), channels = blocks.channels(block);
      T* to = data<T>(y) + n * y.stride[kN] + c * y.stride[kC];
      Receiver<E, kAdd> receiver{nullptr, step, channels, static_cast<uint64_t>(volume), 0};
      if (in_place) {
        receiver.data = reinterpret_cast<E*>(to);
      } else {
        receiver.data = static_cast<E*>(thread_scratch(0, static_cast<size_t>(volume * channels) * sizeof(E)));
        receiver.step = channels;
        if (receiver.data == nullptr) return failure.raise();
      }
      const T* from = data<T>(x) + n * x.stride[kN] + c * x.stride[kC];
      const int64_t* at = data<int64_t>(indices) + n * indices.stride[kN] + c * indices.stride[kC];
      for_runs(x, indices, 0, rows, greater(1, kRunElements / channels), [&](const Run& r) {
        if (!receiver.take(from + r.a, r.a_step, at + r.b, r.b_step, r.count))
          __atomic_store_n(invalid, 1, __ATOMIC_RELAXED);
      });
      receiver.clear_to(static_cast<uint64_t>(volume));
      if (!in_place) spread_block(receiver.data, y, channels, to);
    }
  });
  return failure.status();
}

// The last index, in row-major order, that names no position of a plane of `volume`: PyTorch, too, names the last.
int64_t last_invalid(const TensorView& indices, int64_t volume) {
  int64_t found = 0;
  for (int64_t n = 0; n < indices.size[kN]; ++n)
    for (int64_t c = 0; c < indices.size[kC]; ++c)
      for (int64_t d = 0; d < indices.size[kD]; ++d)
        for (int64_t h = 0; h < indices.size[kH]; ++h)
          for (int64_t w = 0; w < indices.size[kW]; ++w) {
            const int64_t index = data<int64_t>(indices)[offset(indices, n, c, d, h, w)];
            if (index < 0 || index >= volume) found = index;
          }
  return found;
}

template <typename T>
Status gather(const TensorView& x, const TensorView& indices, const TensorView& y) {
  int64_t step = 0;
  const bool in_place = even_steps(x, &step);
  const bool wide = side_by_side(x) && side_by_side(indices) && side_by_side(y) && x.size[kC] > 1;
  const Blocks blocks(x.size[kN], x.size[kC], !wide ? 1 : in_place ? kMostChannels : kScratchChannels);
  const uint64_t volume = static_cast<uint64_t>(plane_volume(x));
  // Where nothing is staged, rows of one plane can go to several tasks.
  const int64_t rows = y.size[kD] * y.size[kH], row_elements = y.size[kW] * blocks.width;
  const int64_t bands = in_place ? band_count(blocks.count(), rows, row_elements) : 1, band = ceil_div(rows, bands);
  Failure failure;
  for_units(blocks.count() * bands, band * row_elements, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit / bands, first = unit % bands * band;
      const int64_t n = blocks.image(block), c = blocks.channel(block), channels = blocks.channels(block);
      const T* from = data<T>(x) + n * x.stride[kN] + c * x.stride[kC];
      int64_t pitch = step;
      if (!in_place) {
        T* dense = static_cast<T*>(thread_scratch(0, static_cast<size_t>(volume) * channels * sizeof(T)));
        if (dense == nullptr) return failure.raise();
        gather_block(from, x, channels, dense);
        from = dense;
        pitch = channels;
      }
      const int64_t* at = data<int64_t>(indices) + n * indices.stride[kN] + c * indices.stride[kC];
      T* to = data<T>(y) + n * y.stride[kN] + c * y.stride[kC];
      const auto one = [&](int64_t index) __attribute__((always_inline)) {
        return static_cast<uint64_t>(index) < volume ? from[index * pitch] : T{};
      };
      const int64_t last = lesser(rows, first + band);
      for_runs(y, indices, lesser(first, last), last, kRunElements, [&](const Run& r) {
        if (channels == 1) {
          for (int64_t i = 0; i < r.count; ++i) to[r.a + i * r.a_step] = one(at[r.b + i * r.b_step]);
          return;
        }
        for (int64_t i = 0; i < r.count; ++i)
          for (int64_t k = 0; k < channels; ++k) {
            const int64_t index = at[r.b + i * r.b_step + k];
            to[r.a + i * r.a_step + k] = static_cast<uint64_t>(index) < volume ? from[index * pitch + k] : T{};
          }
      });
    }
  });
  return failure.status();
}

template <typename F>
CONVKIT_INLINE Status visit_float(DType dtype, const F& run) {
  Status status = kOk;
  if (visit_floating(dtype, [&](auto t) { status = run(t); })) return status;
  return {"operations on flat indices have kernels for floating dtypes only"};
}

}  // namespace

Status max_unpool(const TensorView& x, const TensorView& indices, const TensorView& y, int64_t* invalid) {
  int found = 0;
  const Status status =
      visit_float(x.dtype, [&](auto t) { return scatter<typename decltype(t)::type, false>(x, indices, y, &found); });
  if (!status.ok() || found == 0) return status;
  *invalid = last_invalid(indices, plane_volume(y));
  return kInvalidIndex;
}

Status plane_gather(const TensorView& x, const TensorView& indices, const TensorView& y) {
  return visit_float(x.dtype, [&](auto t) { return gather<typename decltype(t)::type>(x, indices, y); });
}

Status plane_scatter(const TensorView& dy, const TensorView& indices, const TensorView& dx) {
  int ignored = 0;
  return visit_float(dy.dtype,
                     [&](auto t) { return scatter<typename decltype(t)::type, true>(dy, indices, dx, &ignored); });
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
