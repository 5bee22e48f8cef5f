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
//           Of few planes, tasks own bands of positions: the least and largest index of each run, found before,
//           tell which runs concern a band.
// Memory    Planes without one step between their elements, and sums of 16-bit types (kept in float32), lie in
//           scratch memory while a task works on them; and two numbers per run of few planes.
// Limits    Floating types. An index outside of the plane selects 0 in plane_gather and adds nothing in
//           plane_scatter; max_unpool refuses it, and writes nothing outside of the plane.
#include "cpu/pool_flat.h"
#include "cpu/pool_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kRunElements = 1024;      // 8 KB of indices, read twice
constexpr int64_t kScratchChannels = 32;    // of a block in scratch memory
constexpr int64_t kMostChannels = 1 << 20;  // of a block that is written in place

// The least and the largest of some indices; a negative one counts as larger than all others.
struct Span {
  uint64_t least, largest;
  CONVKIT_INLINE void add(uint64_t v) {
    least = v < least ? v : least;
    largest = v > largest ? v : largest;
  }
};

// Of `count` times `channels` indices.
CONVKIT_INLINE Span span_of(const int64_t* indices, int64_t count, int64_t step, int64_t channels) {
  using V = Simd<uint64_t, kVectorBytes / 8>::type;
  constexpr int64_t kLanes = kVectorBytes / 8;
  Span span{UINT64_MAX, 0};
  if (step == channels) {
    channels *= count;
    count = 1;
  }
  V largest{}, least = ~largest;
  for (int64_t i = 0; i < count; ++i, indices += step) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const V v = load_raw<V>(indices + c);
      largest = v > largest ? v : largest;
      least = v < least ? v : least;
    }
    for (; c < channels; ++c) span.add(static_cast<uint64_t>(indices[c]));
  }
  for (int64_t i = 0; i < kLanes; ++i) {
    span.least = least[i] < span.least ? least[i] : span.least;
    span.largest = largest[i] > span.largest ? largest[i] : span.largest;
  }
  return span;
}

template <typename E>
CONVKIT_INLINE void clear(E* at, int64_t count) {
  const Vec<char> zeros{};  // all bits zero is zero in every floating type
  char* to = reinterpret_cast<char*>(at);
  int64_t bytes = count * static_cast<int64_t>(sizeof(E));
  for (; bytes >= kVectorBytes; bytes -= kVectorBytes, to += kVectorBytes) __builtin_memcpy(to, &zeros, kVectorBytes);
  for (int64_t i = 0; i < bytes; ++i) to[i] = 0;
}

// Receives the elements of one block at positions [cleared, end): that of channel c lies at data[position * step + c].
template <typename E, bool kAdd>
struct Receiver {
  E* data;
  int64_t step, channels;
  uint64_t begin, end, cleared;

  CONVKIT_INLINE void clear_to(uint64_t to) {
    if (to <= cleared) return;
    E* at = data + static_cast<int64_t>(cleared) * step;
    const int64_t positions = static_cast<int64_t>(to - cleared);
    cleared = to;
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
  // Elements whose index lies outside of [begin, end) are left out.
  template <typename T>
  CONVKIT_INLINE void take(const T* x, const int64_t* indices, const Run& r, const Span& span) {
    if (span.least >= end || span.largest < begin) return;
    clear_to(span.largest < end ? span.largest + 1 : end);
    const bool all = span.least >= begin && span.largest < end;
    if (all && channels == 1) {
      for (int64_t i = 0; i < r.count; ++i) put(static_cast<uint64_t>(indices[i * r.b_step]), 0, x + i * r.a_step);
    } else if (all) {
      for (int64_t i = 0; i < r.count; ++i)
        for (int64_t c = 0; c < channels; ++c)
          put(static_cast<uint64_t>(indices[i * r.b_step + c]), c, x + i * r.a_step + c);
    } else {
      for (int64_t i = 0; i < r.count; ++i)
        for (int64_t c = 0; c < channels; ++c) {
          const uint64_t v = static_cast<uint64_t>(indices[i * r.b_step + c]);
          if (v >= begin && v < end) put(v, c, x + i * r.a_step + c);
        }
    }
  }
};

// How many bands of positions the planes of a block are cut into, if it is few blocks.
CONVKIT_INLINE int64_t position_bands(const Blocks& blocks, int64_t volume) {
  constexpr int64_t kEnough = 8;
  if (blocks.count() >= kEnough) return 1;
  const int64_t by_size = greater(1, volume * blocks.width / kTaskElements);
  return lesser(ceil_div(kEnough, greater(blocks.count(), 1)), by_size);
}

// The planes of x, element by element, to where the indices say in y. *invalid is set if an index names no element.
template <typename T, bool kAdd>
Status scatter(const TensorView& x, const TensorView& indices, const TensorView& y, int* invalid) {
  using E = std::conditional_t<kAdd, accumulate_t<T>, T>;
  int64_t step = 0;
  const bool in_place = sizeof(E) == sizeof(T) && even_steps(y, &step);
  const bool wide = side_by_side(x) && side_by_side(indices) && side_by_side(y) && x.size[kC] > 1;
  const Blocks blocks(x.size[kN], x.size[kC], !wide ? 1 : in_place ? kMostChannels : kScratchChannels, !in_place);
  const int64_t volume = plane_volume(y);
  const Runs runs(x, indices, 0, x.size[kD] * x.size[kH], greater(1, kRunElements / greater(blocks.width, 1)));
  const auto indices_of = [&](int64_t block) CONVKIT_INLINE_LAMBDA {
    return data<int64_t>(indices) + blocks.image(block) * indices.stride[kN] +
           blocks.channel(block) * indices.stride[kC];
  };
  const int64_t bands = in_place ? position_bands(blocks, volume) : 1;
  Span* spans = nullptr;  // of every run, where several tasks look at the same ones
  if (bands > 1) {
    spans = static_cast<Span*>(thread_scratch(1, static_cast<size_t>(blocks.count() * runs.count) * sizeof(Span)));
    if (spans == nullptr) return kNoMemory;
    for_units(blocks.count() * runs.count, runs.most * blocks.width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Run r = runs[i % runs.count];
        const int64_t block = i / runs.count;
        spans[i] = span_of(indices_of(block) + r.b, r.count, r.b_step, blocks.channels(block));
      }
    });
  }
  Failure failure;
  const int64_t elements = greater(volume, plane_volume(x)) * blocks.width / bands;
  for_units(blocks.count() * bands, elements, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit / bands, band = unit % bands;
      const int64_t n = blocks.image(block), c = blocks.channel(block), channels = blocks.channels(block);
      const uint64_t from = static_cast<uint64_t>(volume * band / bands);
      const uint64_t to = static_cast<uint64_t>(volume * (band + 1) / bands);
      T* result = data<T>(y) + n * y.stride[kN] + c * y.stride[kC];
      Receiver<E, kAdd> receiver{nullptr, step, channels, from, to, from};
      if (in_place) {
        receiver.data = reinterpret_cast<E*>(result);
      } else {
        receiver.data = static_cast<E*>(thread_scratch(0, static_cast<size_t>(volume * channels) * sizeof(E)));
        receiver.step = channels;
        if (receiver.data == nullptr) return failure.raise();
      }
      const T* values = data<T>(x) + n * x.stride[kN] + c * x.stride[kC];
      const int64_t* at = indices_of(block);
      for (int64_t i = 0; i < runs.count; ++i) {
        const Run r = runs[i];
        const Span span =
            spans != nullptr ? spans[block * runs.count + i] : span_of(at + r.b, r.count, r.b_step, channels);
        if (span.largest >= static_cast<uint64_t>(volume)) __atomic_store_n(invalid, 1, __ATOMIC_RELAXED);
        receiver.take(values + r.a, at + r.b, r, span);
      }
      receiver.clear_to(to);
      if (!in_place) spread_block(receiver.data, y, channels, result);
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

// to[i, c] = from[position indices[i, c], c]
template <bool kOne, typename T>
CONVKIT_INLINE void read(const T* from, int64_t pitch, uint64_t volume, int64_t channels, const int64_t* indices,
                         int64_t index_step, T* to, int64_t to_step, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < (kOne ? 1 : channels); ++c) {
      const int64_t index = indices[i * index_step + c];
      to[i * to_step + c] = static_cast<uint64_t>(index) < volume ? from[index * pitch + c] : T{};
    }
}

template <typename T>
Status gather(const TensorView& x, const TensorView& indices, const TensorView& y) {
  int64_t step = 0;
  const bool in_place = even_steps(x, &step);
  const bool wide = side_by_side(x) && side_by_side(indices) && side_by_side(y) && x.size[kC] > 1;
  const Blocks blocks(x.size[kN], x.size[kC], !wide ? 1 : in_place ? kMostChannels : kScratchChannels, !in_place);
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
      const Runs runs(y, indices, first, lesser(rows, first + band), kRunElements);
      for (int64_t i = 0; i < runs.count; ++i) {
        const Run r = runs[i];
        if (channels == 1)
          read<true>(from, pitch, volume, 1, at + r.b, r.b_step, to + r.a, r.a_step, r.count);
        else
          read<false>(from, pitch, volume, channels, at + r.b, r.b_step, to + r.a, r.a_step, r.count);
      }
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
  if (numel(y) == 0) return kOk;
  return visit_float(x.dtype, [&](auto t) { return gather<typename decltype(t)::type>(x, indices, y); });
}

Status plane_scatter(const TensorView& dy, const TensorView& indices, const TensorView& dx) {
  int ignored = 0;
  return visit_float(dy.dtype,
                     [&](auto t) { return scatter<typename decltype(t)::type, true>(dy, indices, dx, &ignored); });
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
