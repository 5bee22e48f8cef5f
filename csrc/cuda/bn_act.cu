// bn_act and bn_act_bwd: batch normalisation with a residual and an activation in one pass, and its gradient in one.
//
// Computes  z = act((x - mean) invstd weight + bias + residual);  dx and dresidual by core/batch_norm.h, from a value
//           before the activation that is computed again from x
// Layout    any strides; packs of 16 bytes of channels that are neighbours, or of positions of dense planes whose
//           size is a multiple of them; else element by element
// Mapping   a thread makes one pack of the result, in the order of its memory, of every image that comes round along
//           blockIdx.y, of which there are as many as fill a GPU: what it needs of its channels it reads once
// Memory    every operand is read once and every result written once; per-channel vectors come from L1
// Limits    floating dtypes; 2^31 elements of the result per image
#include "cuda/bn_kernels.h"
#include "cuda/bn_operands.h"

namespace convkit::cuda {
namespace {

constexpr int64_t kBlocksWanted = 1056;  // eight for each multiprocessor of the GPUs with the most

struct Elements {
  BatchNorm b;
  BatchNormSums sums;
  PlaneView dz, x, residual, result, dresidual;  // result: z or dx; dz and dresidual of the gradient alone
};

template <typename T, int kCount, bool kAlongC, bool kGradient>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) bn_elements(const Elements g, const Walk walk) {
  using A = accumulate_t<T>;
  int64_t c;
  Window at;
  if (!walk.find(kAlongC ? kCount : 1, &c, &at)) return;
  if (!kAlongC) at.w *= kCount;
  constexpr int kChannels = kAlongC ? kCount : 1;
  ChannelNorm<A> norms[kChannels];
  ChannelGradient<A> gradients[kChannels];
  CONVKIT_UNROLL
  for (int j = 0; j < kChannels; ++j) {
    norms[j] = channel_norm<A>(g.b, c + j);
    if (kGradient) gradients[j] = channel_gradient(norms[j], g.sums, c + j);
  }
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const auto x = load_pack<T, kCount>(data<T>(g.x) + offset(g.x, n, c, at));
    Pack<T, kCount> residual{}, dz{}, result, dresidual;
    if (g.residual.data != nullptr) residual = load_pack<T, kCount>(data<T>(g.residual) + offset(g.residual, n, c, at));
    if (kGradient) dz = load_pack<T, kCount>(data<T>(g.dz) + offset(g.dz, n, c, at));
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      const ChannelNorm<A>& norm = norms[j % kChannels];
      const A e = load(&x.v[j]), v = before_activation(norm, e, load(&residual.v[j]));
      if constexpr (kGradient) {
        const A own = activation_gradient(g.b.activation, g.b.alpha, v, load(&dz.v[j]));
        A dx = own * norm.scale;
        if (g.sums.count != 0) {
          const ChannelGradient<A>& gradient = gradients[j % kChannels];
          dx += gradient.constant + (e - norm.mean) * gradient.slope;
        }
        store(&result.v[j], dx);
        store(&dresidual.v[j], own);
      } else {
        store(&result.v[j], activate(g.b.activation, g.b.alpha, v));
      }
    }
    store_pack(data<T>(g.result) + offset(g.result, n, c, at), result);
    if (kGradient && g.dresidual.data != nullptr)
      store_pack(data<T>(g.dresidual) + offset(g.dresidual, n, c, at), dresidual);
  }
}

template <typename T, int kCount, bool kAlongC, bool kGradient>
Status launch_packs(const Elements& g, const TensorView& order) {
  const char* refusal;
  const Walk walk = walk_over(order, kAlongC ? kCount : 1, &refusal);
  if (refusal != nullptr) return {refusal};
  return launch(bn_elements<T, kCount, kAlongC, kGradient>, grid_of(walk, kBlocksWanted), Elements(g), Walk(walk));
}

template <bool kGradient>
Status run(const Elements& g, Packs packs) {
  if (numel(g.result) == 0) return kOk;
  Status status = kNormFloatingOnly;
  visit_floating(g.result.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int kCount = kPackCount<T>;
    TensorView order = g.result;
    if (packs == Packs::kChannels) {
      status = launch_packs<T, kCount, true, kGradient>(g, order);
    } else if (packs == Packs::kPositions) {
      order.size[kW] = order.size[kD] * order.size[kH] * order.size[kW] / kCount;
      order.size[kD] = order.size[kH] = 1;
      status = launch_packs<T, kCount, false, kGradient>(g, order);
    } else {
      status = launch_packs<T, 1, false, kGradient>(g, order);
    }
  });
  return status;
}

}  // namespace

Status bn_act(const BatchNorm& b, const TensorView& x, const TensorView& z) {
  Elements g{};
  g.b = b;
  Packs packs;
  if (!make_operands({&x, &b.residual, &z}, {&g.x, &g.residual, &g.result}, &packs)) return kNormTooWide;
  return run<false>(g, packs);
}

Status bn_act_bwd(const BatchNorm& b, const BatchNormSums& sums, const TensorView& dz, const TensorView& x,
                  const TensorView& dx, const TensorView& dresidual) {
  Elements g{};
  g.b = b;
  g.sums = sums;
  Packs packs;
  if (!make_operands({&dz, &x, &b.residual, &dx, &dresidual}, {&g.dz, &g.x, &g.residual, &g.result, &g.dresidual},
                     &packs))
    return kNormTooWide;
  return run<true>(g, packs);
}

}  // namespace convkit::cuda
