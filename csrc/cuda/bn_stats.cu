// bn_stats: mean and biased variance of each channel.
//
// Computes  mean[c] = sum x / count, var[c] = sum (x - mean)^2 / count
// Layout, mapping, memory, limits: as bn_sums.h
//
// Sums are those of x - x[0,c,0,...], so that a mean far from 0 does not cancel the variance; bn_merge.h puts the parts
// together.
#include "cuda/bn_merge.h"
#include "cuda/bn_sums.h"

namespace convkit::cuda {
namespace {

// What is subtracted of channel c.
template <typename T>
CONVKIT_DEVICE accumulate_t<T> shift_of(const PlaneView& x, int64_t c) {
  return finite_or_zero(load(data<T>(x) + c * x.stride[kC]));
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

// What channel_sums leaves of a part.
template <typename T>
struct ChannelParts {
  const accumulate_t<T>* sums;
  PlaneView x;
  int64_t channels;

  CONVKIT_DEVICE ShiftedSums operator()(int64_t part, int64_t c) const {
    const accumulate_t<T>* of_channel = sums + part * 2 * channels + c;
    return {static_cast<double>(shift_of<T>(x, c)), static_cast<double>(of_channel[0]),
            static_cast<double>(of_channel[channels])};
  }
};

// And what implicit GEMMs leave (conv_igemm_store.h).
struct TileParts {
  const float* sums;
  int64_t channels;

  CONVKIT_DEVICE ShiftedSums operator()(int64_t part, int64_t c) const {
    const float* of_channel = sums + part * 3 * channels + c;
    return {of_channel[0], of_channel[channels], of_channel[2 * channels]};
  }
};

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
    status = sum_channels<T>(x, packs, term, [&](const ChannelSums& g, int32_t parts) {
      const ChannelParts<T> sums{static_cast<const accumulate_t<T>*>(g.parts), view, g.channels};
      return launch_merge<accumulate_t<T>>({g.elements * g.pack, g.each * g.pack, parts, g.channels}, sums, statistics);
    });
  });
  return status;
}

Status merge_tile_statistics(const float* tiles, const StatisticsParts& g, const ChannelStatistics& statistics) {
  return launch_merge<float>(g, TileParts{tiles, g.channels}, statistics);
}

}  // namespace convkit::cuda
