// How the kernels of batch normalisation walk over tensors of one size: positions in runs, channels in vectors or
// tasks.
//
// Where channels are neighbours in memory (the result's, or x's where there is none), vectors run along them, and a
// position is one of N D H W. Else vectors run along positions of one channel and image. Positions whose strides agree
// in all tensors are one run: all of them, for dense tensors of one layout.
#pragma once

#include "core/batch_norm.h"
#include "core/parallel.h"
#include "core/status.h"
#include "cpu/simd.h"
#include "cpu/stream.h"

namespace convkit {
inline namespace CONVKIT_ISA {

CONVKIT_INLINE int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }
CONVKIT_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

CONVKIT_INLINE bool channels_are_neighbours(const TensorView& t) {
  return t.stride[kC] == 1 && t.size[kC] > 1 && (t.stride[kW] != 1 || t.size[kW] == 1);
}

// The positions of kTensors tensors: `rows` runs of `run` positions, `step` elements apart in each tensor.
template <int kTensors>
struct Walk {
  int64_t run = 1, rows = 1;
  int64_t size[3] = {1, 1, 1}, stride[kTensors][3] = {};  // of what is outside of a run, the slowest first
  int64_t step[kTensors];

  // Positions of all images, or of one.
  CONVKIT_INLINE Walk(const TensorView* const (&t)[kTensors], bool all_images) {
    const int dims[4] = {kW, kH, kD, kN};
    int outside = 3;  // size and stride are filled from here on
    for (int j = 0; j < kTensors; ++j) step[j] = 1;
    for (int i = 0; i < (all_images ? 4 : 3); ++i) {
      const int64_t n = t[0]->size[dims[i]];
      if (n == 1) continue;
      bool joins = outside == 3;
      for (int j = 0; j < kTensors; ++j) joins = joins && (run == 1 || t[j]->stride[dims[i]] == run * step[j]);
      if (!joins) {
        size[--outside] = n;
        rows *= n;
      } else {
        for (int j = 0; j < kTensors && run == 1; ++j) step[j] = t[j]->stride[dims[i]];
        run *= n;
      }
      for (int j = 0; j < kTensors && !joins; ++j) stride[j][outside] = t[j]->stride[dims[i]];
    }
  }

  CONVKIT_INLINE int64_t positions() const { return rows * run; }

  // Calls f(offsets of the first position, count) for the positions [begin, end), at most `most` at a time.
  template <typename F>
  CONVKIT_INLINE void visit(int64_t begin, int64_t end, int64_t most, const F& f) const {
    int64_t offset[kTensors];
    while (begin < end) {
      const bool one_row = rows == 1;  // then nothing is divided, which costs more than a small plane
      const int64_t row = one_row ? 0 : begin / run, at = begin - row * run;
      const int64_t count = least(least(run - at, end - begin), most);
      for (int j = 0; j < kTensors; ++j) offset[j] = at * step[j];
      if (!one_row) {
        const int64_t index[3] = {row / size[2] / size[1], row / size[2] % size[1], row % size[2]};
        for (int j = 0; j < kTensors; ++j)
          offset[j] += index[0] * stride[j][0] + index[1] * stride[j][1] + index[2] * stride[j][2];
      }
      f(offset, count);
      begin += count;
    }
  }
};

// Elements that are worth a task.
constexpr int64_t kTask = 32 * 1024;

// Reductions: the most terms that a lane adds before their sum is set aside, and elements of a block of pixels that one
// vector of channels after the other passes over. Elementwise work: the pixels of such a block. Memory is best read,
// and above all written, nearly in its order; a few pixels are enough for the numbers of the channels to be loaded
// seldom.
constexpr int64_t kRunTerms = 256, kPixelBlock = 2048, kPixels = 4;

CONVKIT_INLINE int64_t clamped(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// How a reduction over channels is cut: shares of positions, or of images for groups of channels.
struct Shares {
  int64_t units, count, group, groups;
  int64_t pitch;  // of per-channel results
  CONVKIT_INLINE int64_t begin(int64_t share) const { return share * units / count; }
};

CONVKIT_INLINE Shares cut(const TensorView& x, bool along_channels) {
  constexpr int64_t kShare = 2 * kTask;
  const int64_t channels = x.size[kC], plane = x.size[kD] * x.size[kH] * x.size[kW], n = x.size[kN];
  Shares s{};
  s.units = along_channels ? n * plane : n;
  s.count = clamped((along_channels ? n * plane * channels : n * plane) / kShare + 1, 1, s.units > 0 ? s.units : 1);
  s.group = along_channels ? channels : kShare / (n * plane / s.count + 1) + 1;  // small planes: several in a task
  s.groups = ceil_of(channels, s.group > 0 ? s.group : 1);
  s.pitch = channels;
  return s;
}

// n lanes that lie `stride` apart; kDense: side by side.
template <bool kDense, typename T>
CONVKIT_INLINE vector_t<accumulate_t<T>> load_run(const T* p, int64_t stride, int n) {
  if constexpr (!kDense) return load_strided<T>(p, stride, n);
  if (n != lanes_of<T>()) return load_partial<T>(p, n);
  ask_to_read(p);
  return load_vector<T>(p);
}
template <bool kDense, typename T>
CONVKIT_INLINE void store_run(T* p, int64_t stride, vector_t<accumulate_t<T>> v, int n) {
  if constexpr (!kDense) return store_strided<T>(p, stride, v, n);
  if (n != lanes_of<T>()) return store_partial<T>(p, v, n);
  ask_to_write(p);
  store_vector<T>(p, v);
}

// Calls f(i, lanes) for each whole vector of `count` elements, then f(i, rest).
template <int kLanes, typename F>
CONVKIT_INLINE void for_vectors(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, kLanes);
  if (i < count) f(i, static_cast<int>(count - i));
}

// The numbers of channel_norm and channel_gradient as arrays, padded with zeros to whole vectors.
template <typename A>
struct NormArrays {
  A *mean, *scale, *bias, *slope, *constant;

  // In this thread's scratch memory (slot 3); false if there is none.
  CONVKIT_INLINE bool fill(const BatchNorm& b, const BatchNormSums* sums, int64_t channels) {
    const int64_t pitch = ceil_of(channels, Vector<A>::lanes) * Vector<A>::lanes;
    A* at = static_cast<A*>(thread_scratch(3, static_cast<size_t>(5 * pitch) * sizeof(A)));
    if (at == nullptr) return false;
    for (int64_t i = 0; i < 5 * pitch; ++i) at[i] = 0;
    *this = {at, at + pitch, at + 2 * pitch, at + 3 * pitch, at + 4 * pitch};
    for (int64_t c = 0; c < channels; ++c) {
      const ChannelNorm<A> n = channel_norm<A>(b, c);
      mean[c] = n.mean;
      scale[c] = n.scale;
      bias[c] = n.bias;
      if (sums == nullptr) continue;
      const ChannelGradient<A> g = channel_gradient(n, *sums, c);
      slope[c] = g.slope;
      constant[c] = g.constant;
    }
    return true;
  }
};

// One vector of each array: of neighbouring channels, or of one channel.
template <typename A>
struct NormVectors {
  vector_t<A> mean, scale, bias, slope, constant;

  static CONVKIT_INLINE NormVectors of_channels(const NormArrays<A>& a, int64_t c) {
    return {load_vector<A>(a.mean + c), load_vector<A>(a.scale + c), load_vector<A>(a.bias + c),
            load_vector<A>(a.slope + c), load_vector<A>(a.constant + c)};
  }
  static CONVKIT_INLINE NormVectors of_channel(const NormArrays<A>& a, int64_t c) {
    return {broadcast<A>(a.mean[c]), broadcast<A>(a.scale[c]), broadcast<A>(a.bias[c]), broadcast<A>(a.slope[c]),
            broadcast<A>(a.constant[c])};
  }
};

template <int kTensors>
CONVKIT_INLINE bool all_ones(const int64_t (&lane)[kTensors]) {
  for (int j = 0; j < kTensors; ++j)
    if (lane[j] != 1) return false;
  return true;
}

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Calls f(c, Constant<columns>, lanes) for the channels in blocks of four whole vectors, then in single ones: the
// numbers of four fit in registers, and four cache lines side by side are read as fast as all of them in a row.
template <int kLanes, typename F>
CONVKIT_INLINE void for_columns(int64_t channels, const F& f) {
  constexpr int kColumns = 4;
  int64_t c = 0;
  for (; c + kColumns * kLanes <= channels; c += kColumns * kLanes) f(c, Constant<kColumns>{}, kLanes);
  for_vectors<kLanes>(channels - c, [&](int64_t i, int n) { f(c + i, Constant<1>{}, n); });
}

// Elementwise work on tensors of one size: calls body(Constant<dense>, norm vectors, pointers, lane strides, lanes) for
// every vector of elements; dense tells that all lane strides are 1.
template <typename T, int kTensors, typename F>
CONVKIT_INLINE void for_elements(const TensorView* const (&t)[kTensors], bool along_channels,
                                 const NormArrays<accumulate_t<T>>& arrays, const F& body) {
  using Vectors = NormVectors<accumulate_t<T>>;
  constexpr int lanes = lanes_of<T>();
  const int64_t channels = t[0]->size[kC];
  const Walk<kTensors> walk(t, along_channels);
  const int64_t positions = walk.positions();
  if (positions == 0 || channels == 0 || t[0]->size[kN] == 0) return;
  int64_t lane[kTensors];
  for (int j = 0; j < kTensors; ++j) lane[j] = along_channels ? t[j]->stride[kC] : walk.step[j];
  const auto pixels = [&](auto dense, int64_t task, int64_t per_task) {
    walk.visit(task * per_task, least((task + 1) * per_task, positions), kPixels,
               [&](const int64_t (&offset)[kTensors], int64_t count) {
                 for_columns<lanes>(channels, [&](int64_t c, auto columns, int n) {
                   Vectors vectors[columns.value];
                   for (int k = 0; k < columns.value; ++k) vectors[k] = Vectors::of_channels(arrays, c + k * lanes);
                   for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 4
                     for (int k = 0; k < columns.value; ++k) {
                       T* p[kTensors];
                       for (int j = 0; j < kTensors; ++j)
                         p[j] = data<T>(*t[j]) + offset[j] + i * walk.step[j] +
                                (c + k * lanes) * (dense.value ? 1 : lane[j]);
                       body(dense, vectors[k], p, lane, n);
                     }
                 });
               });
  };
  // Units are (image, channel, piece of its positions), in the order of contiguous tensors.
  const int64_t pieces = ceil_of(positions, kTask), piece = ceil_of(positions, pieces);
  const auto planes = [&](auto dense, int64_t begin, int64_t end) {
    int64_t part = begin % pieces, c = begin / pieces % channels, image = begin / pieces / channels;
    const auto next = [&] {
      if (++part < pieces) return;
      part = 0;
      if (++c < channels) return;
      c = 0;
      ++image;
    };
    for (int64_t unit = begin; unit < end; ++unit, next()) {
      const Vectors vectors = Vectors::of_channel(arrays, c);
      walk.visit(part * piece, least((part + 1) * piece, positions), positions,
                 [&](const int64_t (&offset)[kTensors], int64_t count) {
                   T* first[kTensors];
                   for (int j = 0; j < kTensors; ++j)
                     first[j] = data<T>(*t[j]) + image * t[j]->stride[kN] + c * t[j]->stride[kC] + offset[j];
                   for_vectors<lanes>(count, [&](int64_t i, int n) {
                     T* p[kTensors];
                     for (int j = 0; j < kTensors; ++j) p[j] = first[j] + i * (dense.value ? 1 : lane[j]);
                     body(dense, vectors, p, lane, n);
                   });
                 });
    }
  };
  const bool dense = all_ones(lane);
  if (along_channels) {
    const int64_t per_task = ceil_of(kTask, channels);
    parallel_for(ceil_of(positions, per_task), [&](int64_t task) {
      dense ? pixels(Constant<1>{}, task, per_task) : pixels(Constant<0>{}, task, per_task);
    });
  } else {
    const int64_t units = t[0]->size[kN] * channels * pieces, per_task = ceil_of(kTask, piece);
    parallel_for(ceil_of(units, per_task), [&](int64_t task) {
      const int64_t begin = task * per_task, end = least(begin + per_task, units);
      dense ? planes(Constant<1>{}, begin, end) : planes(Constant<0>{}, begin, end);
    });
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
