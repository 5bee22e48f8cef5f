// Batch normalisation with an activation, and its gradient: one element at a time.
//
// Computes  z = act((x - mean) invstd weight + bias + residual), and what core/batch_norm.h says of its gradient.
// Layout    any strides.
// Mapping   a task is one channel; its sums are kept in double.
// Memory    nothing is staged.
#include "cpu/bn_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Calls f(n, d, h, w) for every position of a channel.
template <typename F>
void for_positions(const TensorView& x, const F& f) {
  for (int64_t n = 0; n < x.size[kN]; ++n)
    for (int64_t d = 0; d < x.size[kD]; ++d)
      for (int64_t h = 0; h < x.size[kH]; ++h)
        for (int64_t w = 0; w < x.size[kW]; ++w) f(n, d, h, w);
}

template <typename T>
CONVKIT_INLINE accumulate_t<T> element(const TensorView& t, int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) {
  return load(data<T>(t) + offset(t, n, c, d, h, w));
}

template <typename T>
CONVKIT_INLINE accumulate_t<T> before_activation(const BatchNorm& b, const ChannelNorm<accumulate_t<T>>& norm,
                                                 accumulate_t<T> x, int64_t n, int64_t c, int64_t d, int64_t h,
                                                 int64_t w) {
  const accumulate_t<T> v = (x - norm.mean) * norm.scale + norm.bias;
  return b.residual.data == nullptr ? v : v + element<T>(b.residual, n, c, d, h, w);
}

Status done(bool dtype_known) { return dtype_known ? kOk : Status{"batch normalisation has no kernel for this dtype"}; }

}  // namespace

Status bn_stats(const TensorView& x, const ChannelStatistics& statistics) {
  return done(visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using A = accumulate_t<T>;
    parallel_for(x.size[kC], [&](int64_t c) {
      double count = 0, mean = 0, squares = 0;
      for_positions(x, [&](int64_t n, int64_t d, int64_t h, int64_t w) {
        const double v = element<T>(x, n, c, d, h, w), delta = v - mean;
        mean += delta / ++count;
        squares += delta * (v - mean);
      });
      static_cast<A*>(statistics.mean)[c] = static_cast<A>(count == 0 ? 0 / count : mean);
      static_cast<A*>(statistics.var)[c] = static_cast<A>(squares / count);
    });
  }));
}

Status bn_act(const BatchNorm& b, const TensorView& x, const TensorView& z) {
  return done(visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    parallel_for(x.size[kC], [&](int64_t c) {
      const auto norm = channel_norm<accumulate_t<T>>(b, c);
      for_positions(x, [&](int64_t n, int64_t d, int64_t h, int64_t w) {
        const auto v = before_activation<T>(b, norm, element<T>(x, n, c, d, h, w), n, c, d, h, w);
        store(data<T>(z) + offset(z, n, c, d, h, w), activate(b.activation, b.alpha, v));
      });
    });
  }));
}

Status bn_act_bwd_reduce(const BatchNorm& b, const TensorView& dz, const TensorView& x, void* dbias, void* dweight) {
  return done(visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using A = accumulate_t<T>;
    parallel_for(x.size[kC], [&](int64_t c) {
      const auto norm = channel_norm<A>(b, c);
      double sum = 0, product = 0;
      for_positions(x, [&](int64_t n, int64_t d, int64_t h, int64_t w) {
        const A e = element<T>(x, n, c, d, h, w), v = before_activation<T>(b, norm, e, n, c, d, h, w);
        const A g = activation_gradient(b.activation, b.alpha, v, element<T>(dz, n, c, d, h, w));
        sum += g;
        product += g * (e - norm.mean);
      });
      static_cast<A*>(dbias)[c] = static_cast<A>(sum);
      static_cast<A*>(dweight)[c] = static_cast<A>(product * norm.invstd);
    });
  }));
}

Status bn_act_bwd(const BatchNorm& b, const BatchNormSums& sums, const TensorView& dz, const TensorView& x,
                  const TensorView& dx, const TensorView& dresidual) {
  return done(visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using A = accumulate_t<T>;
    parallel_for(x.size[kC], [&](int64_t c) {
      const auto norm = channel_norm<A>(b, c);
      const auto gradient = channel_gradient(norm, sums, c);
      for_positions(x, [&](int64_t n, int64_t d, int64_t h, int64_t w) {
        const A e = element<T>(x, n, c, d, h, w), v = before_activation<T>(b, norm, e, n, c, d, h, w);
        const A g = activation_gradient(b.activation, b.alpha, v, element<T>(dz, n, c, d, h, w));
        A r = g * norm.scale;
        if (sums.count != 0) r += gradient.constant + (e - norm.mean) * gradient.slope;
        store(data<T>(dx) + offset(dx, n, c, d, h, w), r);
        if (dresidual.data != nullptr) store(data<T>(dresidual) + offset(dresidual, n, c, d, h, w), g);
      });
    });
  }));
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
