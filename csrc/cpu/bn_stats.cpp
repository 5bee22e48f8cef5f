// bn_stats: the mean and the biased variance of each channel, in one pass.
//
// Computes  mean[c] and var[c], the mean of (x - mean)^2.
// Layout    any strides; vectors run along C where channels are neighbours, else along positions.
// Mapping   a task is a share of the positions of all channels, or of the images of some channels; shares follow from
//           the sizes alone.
// Memory    x once. Runs of at most 256 elements per lane are summed in the accumulate type, as differences from their
//           first element, and so are the squares of these; means and squares around them are then merged in double,
//           run by run and share by share, in order (Chan, Golub, LeVeque). So no large mean cancels the variance, and
//           the error does not grow with the tensor.
#include "cpu/bn_kernels.h"
#include "cpu/bn_moments.h"
#include "cpu/bn_walk.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Of `count` elements: the sums of their distances from `shift` and of the squares of these.
CONVKIT_INLINE Moments around(double shift, double sum, double squares, double count) {
  return {shift + sum / count, squares - sum * (sum / count)};
}

// The moments of positions [begin, end) of all channels, which are vectors' lanes; `lines` has room for three.
template <bool kDense, typename T>
void measure_pixels(const TensorView& x, const Walk<1>& walk, int64_t begin, int64_t end, accumulate_t<T>* lines,
                    double* mean, double* squares) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = lanes_of<T>();
  const int64_t channels = x.size[kC], pitch = ceil_of(channels, lanes) * lanes, lane = kDense ? 1 : x.stride[kC];
  const int64_t most = clamped(kPixelBlock / channels, 8, kRunTerms);
  A *shift = lines, *sum = lines + pitch, *square = lines + 2 * pitch;
  int64_t added = 0, before = 0;
  const auto merge = [&] {
    for (int64_t c = 0; c < channels && added > 0; ++c) {
      const Moments m =
          merged({mean[c], squares[c]}, static_cast<double>(before),
                 around(shift[c], sum[c], square[c], static_cast<double>(added)), static_cast<double>(added));
      mean[c] = m.mean;
      squares[c] = m.squares;
    }
    before += added;
    added = 0;
  };
  for (int64_t c = 0; c < channels; ++c) mean[c] = squares[c] = 0;
  walk.visit(begin, end, most, [&](const int64_t (&offset)[1], int64_t count) {
    const bool first = added == 0;
    for_columns<lanes>(channels, [&](int64_t c, auto columns, int n) {
      const T* p = data<T>(x) + offset[0] + c * lane;
      V from[columns.value], s[columns.value], q[columns.value];
      for (int k = 0; k < columns.value; ++k) {
        if (first) store_vector<A>(shift + c + k * lanes, load_run<kDense>(p + k * lanes * lane, lane, n));
        from[k] = load_vector<A>(shift + c + k * lanes);
        s[k] = first ? V{} : load_vector<A>(sum + c + k * lanes);
        q[k] = first ? V{} : load_vector<A>(square + c + k * lanes);
      }
      for (int64_t i = 0; i < count; ++i, p += walk.step[0])
#pragma GCC unroll 4
        for (int k = 0; k < columns.value; ++k) {
          const V d = load_run<kDense>(p + k * lanes * lane, lane, n) - from[k];
          s[k] += d;
          q[k] += d * d;
        }
      for (int k = 0; k < columns.value; ++k) {
        store_vector<A>(sum + c + k * lanes, s[k]);
        store_vector<A>(square + c + k * lanes, q[k]);
      }
    });
    if ((added += count) >= kRunTerms) merge();
  });
  merge();
}

// The moments of one channel of images [begin, end).
template <bool kDense, typename T>
Moments measure_planes(const TensorView& x, const Walk<1>& walk, int64_t c, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  using Index = decltype(V{} < V{});
  constexpr int lanes = lanes_of<T>();
  Index number;
  for (int i = 0; i < lanes; ++i) number[i] = i;
  const int64_t step = kDense ? 1 : walk.step[0];
  Moments total{0, 0};
  int64_t added = 0, before = 0;
  A shift{};
  V sum[2] = {}, square[2] = {};
  const auto merge = [&] {
    if (added == 0) return;
    const double count = static_cast<double>(added);
    total = merged(total, static_cast<double>(before),
                   around(shift, sum_lanes<A>(sum[0] + sum[1]), sum_lanes<A>(square[0] + square[1]), count), count);
    sum[0] = sum[1] = square[0] = square[1] = V{};
    before += added;
    added = 0;
  };
  for (int64_t image = begin; image < end; ++image)
    walk.visit(0, walk.positions(), kRunTerms * lanes, [&](const int64_t (&offset)[1], int64_t count) {
      const T* p = data<T>(x) + image * x.stride[kN] + c * x.stride[kC] + offset[0];
      if (added == 0) shift = load(p);
      const V from = broadcast<A>(shift);
      int64_t i = 0;
      for (; i + 2 * lanes <= count; i += 2 * lanes)
        for (int j = 0; j < 2; ++j) {
          const V d = load_run<kDense>(p + (i + j * lanes) * step, step, lanes) - from;
          sum[j] += d;
          square[j] += d * d;
        }
      for (; i < count; i += lanes) {
        const int n = static_cast<int>(least(count - i, lanes));
        V d = load_run<kDense>(p + i * step, step, n) - from;
        if (n < lanes) d = number < n ? d : V{};
        sum[0] += d;
        square[0] += d * d;
      }
      if ((added += count) >= kRunTerms * lanes) merge();
    });
  merge();
  return total;
}

template <typename T>
Status measure(const TensorView& x, Moments* result) {
  using A = accumulate_t<T>;
  const TensorView* const tensors[1] = {&x};
  const bool along_channels = channels_are_neighbours(x);
  const Walk<1> walk(tensors, along_channels);
  const Shares shares = cut(x, along_channels);
  double* partial = static_cast<double*>(thread_scratch(2, static_cast<size_t>(shares.count * shares.pitch * 2) * 8));
  if (partial == nullptr) return {"bn_stats ran out of memory"};
  bool failed = false;
  if (along_channels) {
    const size_t room = static_cast<size_t>(3 * (x.size[kC] + lanes_of<T>())) * sizeof(A);
    parallel_for(shares.count, [&](int64_t share) {
      A* lines = static_cast<A*>(thread_scratch(0, room));
      if (lines == nullptr) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      double* to = partial + share * 2 * shares.pitch;
      measure_pixels<true, T>(x, walk, shares.begin(share), shares.begin(share + 1), lines, to, to + shares.pitch);
    });
  } else {
    const bool dense = all_ones(walk.step);
    parallel_for(shares.count * shares.groups, [&](int64_t task) {
      const int64_t share = task / shares.groups, first = task % shares.groups * shares.group;
      for (int64_t c = first; c < least(first + shares.group, x.size[kC]); ++c) {
        const Moments m = (dense ? measure_planes<true, T> : measure_planes<false, T>)(x, walk, c, shares.begin(share),
                                                                                       shares.begin(share + 1));
        partial[share * 2 * shares.pitch + c] = m.mean;
        partial[(share * 2 + 1) * shares.pitch + c] = m.squares;
      }
    });
  }
  const double unit = along_channels ? 1.0 : static_cast<double>(walk.positions());  // elements of a unit of a share
  for (int64_t c = 0; c < x.size[kC]; ++c) {
    Moments total{0, 0};
    double count = 0;
    for (int64_t share = 0; share < shares.count; ++share) {
      const double more = unit * static_cast<double>(shares.begin(share + 1) - shares.begin(share));
      if (more == 0) continue;
      total = merged(total, count, {partial[share * 2 * shares.pitch + c], partial[(share * 2 + 1) * shares.pitch + c]},
                     more);
      count += more;
    }
    result[c] = total;
  }
  return failed ? Status{"bn_stats ran out of memory"} : kOk;
}

}  // namespace

Status bn_moments(const TensorView& x, Moments* result) {
  Status status{"bn_stats has no kernel for this dtype"};
  visit_floating(x.dtype, [&](auto t) { status = measure<typename decltype(t)::type>(x, result); });
  return status;
}

void store_statistics(const TensorView& x, const Moments* moments, const ChannelStatistics& statistics) {
  const double count = static_cast<double>(numel(x)) / static_cast<double>(x.size[kC]);
  visit_floating(x.dtype, [&](auto t) {
    using A = accumulate_t<typename decltype(t)::type>;
    for (int64_t c = 0; c < x.size[kC]; ++c) {
      static_cast<A*>(statistics.mean)[c] = static_cast<A>(count == 0 ? 0 / count : moments[c].mean);
      static_cast<A*>(statistics.var)[c] = static_cast<A>(moments[c].squares / count);
    }
  });
}

Status bn_stats(const TensorView& x, const ChannelStatistics& statistics) {
  Moments* moments = static_cast<Moments*>(thread_scratch(3, static_cast<size_t>(x.size[kC]) * sizeof(Moments)));
  if (moments == nullptr) return {"bn_stats ran out of memory"};
  const Status status = bn_moments(x, moments);
  if (status.ok()) store_statistics(x, moments, statistics);
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
