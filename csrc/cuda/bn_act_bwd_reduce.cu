// bn_act_bwd_reduce: what batch statistics and affine parameters need of a gradient.
//
// Computes  dbias[c] = sum of g, dweight[c] = sum of g (x - mean) invstd; g = dz act'(the value before the activation),
//           which is computed again from x
// Layout, mapping, memory, limits: as bn_sums.h
#include "cuda/bn_kernels.h"
#include "cuda/bn_sums.h"

namespace convkit::cuda {
namespace {

template <typename T>
struct Gradients {
  using Sum = accumulate_t<T>;
  BatchNorm b;
  PlaneView dz, x, residual;
  ChannelNorm<Sum> norm[kPackCount<T>];

  template <int kChannels>
  CONVKIT_DEVICE void begin(int32_t c) {
    CONVKIT_UNROLL
    for (int j = 0; j < kChannels; ++j) norm[j] = channel_norm<Sum>(b, c + j);
  }
  template <int kCount, int kChannels>
  CONVKIT_DEVICE void add(int64_t n, int32_t c, const Window& at, Sum (&first)[kChannels], Sum (&second)[kChannels]) {
    const auto xs = load_pack<T, kCount>(data<T>(x) + offset(x, n, c, at));
    const auto dzs = load_pack<T, kCount>(data<T>(dz) + offset(dz, n, c, at));
    Pack<T, kCount> more{};
    if (residual.data != nullptr) more = load_pack<T, kCount>(data<T>(residual) + offset(residual, n, c, at));
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      const ChannelNorm<Sum>& own = norm[j % kChannels];
      const Sum e = load(&xs.v[j]), v = before_activation(own, e, load(&more.v[j]));
      const Sum g = activation_gradient(b.activation, b.alpha, v, load(&dzs.v[j]));
      first[j % kChannels] += g;
      second[j % kChannels] += g * (e - own.mean);
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kAddThreads)
    add_sums(const ChannelSums g, const BatchNorm b, const int32_t parts, void* dbias, void* dweight) {
  using A = accumulate_t<T>;
  double sum[2];
  const int32_t c = add_channel<A>(g, parts, sum);
  if (c < 0) return;
  static_cast<A*>(dbias)[c] = static_cast<A>(sum[0]);
  static_cast<A*>(dweight)[c] = static_cast<A>(sum[1] * static_cast<double>(static_cast<const A*>(b.invstd)[c]));
}

}  // namespace

Status bn_act_bwd_reduce(const BatchNorm& b, const TensorView& dz, const TensorView& x, void* dbias, void* dweight) {
  if (x.size[kC] == 0) return kOk;
  PlaneView dzs, xs, residual;
  Packs packs;
  if (x.size[kC] > kMostBlocksX || !make_operands({&dz, &x, &b.residual}, {&dzs, &xs, &residual}, &packs))
    return kNormTooWide;
  Status status = kNormFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    Gradients<T> term{};
    term.b = b;
    term.dz = dzs;
    term.x = xs;
    term.residual = residual;
    status = sum_channels<T>(x, packs, term, [&](const ChannelSums& g, int32_t parts) {
      return launch(add_sums<T>, grid_of_channels(g), ChannelSums(g), BatchNorm(b), int32_t(parts),
                    static_cast<void*>(dbias), static_cast<void*>(dweight));
    });
  });
  return status;
}

}  // namespace convkit::cuda
