// conv_bgrad: the gradient of a convolution's bias.
//
// Computes  db[k] = sum of dy[n,k,o,q,r] over images and positions, in float64: the error is that of rounding db
// Layout, mapping, memory, limits: as bn_sums.h, with strides of 64 bits; the second of its two sums stays 0
#include "cuda/bn_sums.h"
#include "cuda/conv_kernels.h"

namespace convkit::cuda {
namespace {

template <typename T>
struct BiasTerm {
  using Sum = double;
  TensorView dy;

  template <int kChannels>
  CONVKIT_DEVICE void begin(int32_t) {}
  template <int kCount, int kChannels>
  CONVKIT_DEVICE void add(int64_t n, int32_t c, const Window& at, Sum (&first)[kChannels], Sum (&)[kChannels]) {
    const auto pack = load_pack<T, kCount>(data<T>(dy) + offset(dy, n, c, at.d, at.h, at.w));
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) first[j % kChannels] += static_cast<double>(load(&pack.v[j]));
  }
};

template <typename T>
__global__ void __launch_bounds__(kAddThreads) add_bias(const ChannelSums g, const int32_t parts, const TensorView db) {
  double sum[2];
  const int32_t k = add_channel<double>(g, parts, sum);
  if (k >= 0) store(data<T>(db) + k * db.stride[kC], static_cast<accumulate_t<T>>(sum[0]));
}

}  // namespace

Status conv_bgrad(const TensorView& dy, const TensorView& db) {
  if (db.size[kC] == 0) return kOk;
  if (db.size[kC] > kMostBlocksX || dy.size[kD] * dy.size[kH] * dy.size[kW] > 1 << 30)
    return {"conv_bgrad counts channels and positions in 32 bits"};
  Status status{"conv_bgrad has floating point kernels only"};
  visit_floating(dy.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    BiasTerm<T> term{dy};
    Packs packs = Packs::kNone;
    if (packs_fit(dy, kPackCount<T>, sizeof(T))) {
      packs = Packs::kChannels;
    } else if (position_packs_fit(dy, kPackCount<T>, sizeof(T))) {
      packs = Packs::kPositions;
      for (const Dim dim : {kD, kH}) term.dy.stride[dim] = 0;
      term.dy.stride[kW] = 1;
    }
    status = sum_channels<T>(dy, packs, term, [&](const ChannelSums& g, int32_t parts) {
      return launch(add_bias<T>, grid_of_channels(g), ChannelSums(g), int32_t(parts), TensorView(db));
    });
  });
  return status;
}

}  // namespace convkit::cuda
