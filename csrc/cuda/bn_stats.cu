// bn_stats: mean and biased variance of each channel.
//
// Computes  mean[c] = sum x / count, var[c] = sum (x - mean)^2 / count
// Layout, mapping, memory, limits: as bn_sums.h
//
// Sums are those of x - x[0,c,0,...], so that a mean far from 0 does not cancel the variance; the parts' means and sums
// of squares are put together in double, in order (Chan, Golub and LeVeque, "Algorithms for computing the sample
// variance", 1983).
#include "cuda/bn_kernels.h"
#include "cuda/bn_sums.h"

namespace convkit::cuda {
namespace {

constexpr int kMergeThreads = 128;

// What is subtracted of channel c.
template <typename T>
CONVKIT_DEVICE accumulate_t<T> shift_of(const PlaneView& x, int32_t c) {
  const accumulate_t<T> v = load(data<T>(x) + c * x.stride[kC]);
  return v - v == 0 ? v : 0;  // not an infinity or NaN
}

template <typename T>
struct Deviations {
  using Sum = accumulate_t<T>;
  PlaneView x;
  Sum shift[kPackCount<T>];

  template <int kChannels>
  CONVKIT_DEVICE void begin(int32_t c) {
    CONVKIT_UNROLL
    for (int j = 0; j < kChannels; ++j) shift[j] = shift_of<T>(x, c + j);
  }
  template <int kCount, int kChannels>
  CONVKIT_DEVICE void add(int64_t n, int32_t c, const Window& at, Sum (&first)[kChannels], Sum (&second)[kChannels]) {
    const auto pack = load_pack<T, kCount>(data<T>(x) + offset(x, n, c, at));
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      const Sum d = load(&pack.v[j]) - shift[j % kChannels];
      first[j % kChannels] += d;
      second[j % kChannels] += d * d;
    }
  }
};

// A thread puts the parts of one channel together.
template <typename T>
__global__ void __launch_bounds__(kMergeThreads)
    merge_statistics(const ChannelSums g, const PlaneView x, const int32_t parts, const ChannelStatistics to) {
  using A = accumulate_t<T>;
  const int32_t c = static_cast<int32_t>(blockIdx.x) * kMergeThreads + static_cast<int32_t>(threadIdx.x);
  if (c >= g.channels) return;
  const double shift = static_cast<double>(shift_of<T>(x, c));
  double count = 0, mean = 0, squares = 0;
  for (int32_t part = 0; part < parts; ++part) {
    const A* sums = static_cast<const A*>(g.parts) + static_cast<int64_t>(part) * 2 * g.channels + c;
    const int64_t left = g.elements - part * g.each;
    const double more = static_cast<double>((left < g.each ? left : g.each) * g.pack);
    const double first = static_cast<double>(sums[0]), second = static_cast<double>(sums[g.channels]);
    const double own = second - first * first / more, delta = shift + first / more - mean;
    squares += (own < 0 ? 0 : own) + delta * delta * (count * more / (count + more));
    mean += delta * (more / (count + more));
    count += more;
  }
  static_cast<A*>(to.mean)[c] = static_cast<A>(count == 0 ? 0 / count : mean);
  static_cast<A*>(to.var)[c] = static_cast<A>(squares / count);
}

}  // namespace

Status bn_stats(const TensorView& x, const ChannelStatistics& statistics) {
  if (x.size[kC] == 0) return kOk;
  PlaneView view;
  Packs packs;
  if (x.size[kC] > kMostBlocksX || !make_operands({&x}, {&view}, &packs)) return kNormTooWide;
  Status status = kNormFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    Deviations<T> term{};
    term.x = view;
    if (numel(x) == 0) view.data = statistics.mean;  // no element to subtract
    status = sum_channels<T>(x, packs, term, [&](const ChannelSums& g, int32_t parts) {
      return launch(merge_statistics<T>, Grid{blocks(ceil_div(g.channels, kMergeThreads)), threads(kMergeThreads)},
                    ChannelSums(g), PlaneView(view), int32_t(parts), ChannelStatistics(statistics));
    });
  });
  return status;
}

}  // namespace convkit::cuda
