// conv_direct: convolution by its definition, for every dtype and any strides.
//
// Computes  y[n,k,o] = act(scale[k] * sum_{c,t} x[n,c,o*stride - pad + t*dilation] w[k,c,t] + bias[k] + residual)
//           and its two adjoints; o and t run over three spatial dimensions.
// Mapping   one task per (image, channel) plane of the result (wgrad: per filter), one accumulator per element.
// Memory    nothing is staged.
// Limits    zero padding. Slow: it serves integer and complex tensors and stands behind the other algorithms' tests.
#include "core/conv_epilogue.h"
#include "cpu/conv_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T>
CONVKIT_INLINE void multiply_add(T& acc, T a, T b) {
  acc += a * b;
}
// Integers wrap around as PyTorch's do; unsigned arithmetic makes that defined.
template <>
CONVKIT_INLINE void multiply_add(uint8_t& acc, uint8_t a, uint8_t b) {
  acc = static_cast<uint8_t>(acc + static_cast<unsigned>(a) * b);
}
template <>
CONVKIT_INLINE void multiply_add(int8_t& acc, int8_t a, int8_t b) {
  acc = static_cast<int8_t>(acc + a * b);
}
template <>
CONVKIT_INLINE void multiply_add(int16_t& acc, int16_t a, int16_t b) {
  acc = static_cast<int16_t>(acc + a * b);
}
template <>
CONVKIT_INLINE void multiply_add(int32_t& acc, int32_t a, int32_t b) {
  acc = static_cast<int32_t>(static_cast<uint32_t>(acc) + static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}
template <>
CONVKIT_INLINE void multiply_add(int64_t& acc, int64_t a, int64_t b) {
  acc = static_cast<int64_t>(static_cast<uint64_t>(acc) + static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <typename T>
CONVKIT_INLINE void multiply_add(complex<T>& acc, complex<T> a, complex<T> b) {
  acc.re += a.re * b.re - a.im * b.im;
  acc.im += a.re * b.im + a.im * b.re;
}

// The output position whose window reads input position i through tap t, or -1.
CONVKIT_INLINE int64_t output_of(const ConvProblem& p, int dim, int64_t i, int64_t tap) {
  const int64_t shifted = i + p.pad_before[dim] - tap * p.dilation[dim];
  if (shifted < 0 || shifted % p.stride[dim] != 0) return -1;
  const int64_t o = shifted / p.stride[dim];
  return o < p.out[dim] ? o : -1;
}

// Calls f(offset of the tap's input element in a (c = 0) plane, tap d, h, w) for the taps inside the input.
template <typename F>
CONVKIT_INLINE void for_taps(const ConvProblem& p, int64_t o, int64_t q, int64_t r, const F& f) {
  for (int64_t td = 0; td < p.filter[0]; ++td) {
    const int64_t d = o * p.stride[0] - p.pad_before[0] + td * p.dilation[0];
    if (d < 0 || d >= p.in[0]) continue;
    for (int64_t th = 0; th < p.filter[1]; ++th) {
      const int64_t h = q * p.stride[1] - p.pad_before[1] + th * p.dilation[1];
      if (h < 0 || h >= p.in[1]) continue;
      for (int64_t tw = 0; tw < p.filter[2]; ++tw) {
        const int64_t w = r * p.stride[2] - p.pad_before[2] + tw * p.dilation[2];
        if (w >= 0 && w < p.in[2]) f(d, h, w, td, th, tw);
      }
    }
  }
}

template <typename F>
CONVKIT_INLINE void for_positions(const Spatial& s, const F& f) {
  for (int64_t d = 0; d < s[0]; ++d)
    for (int64_t h = 0; h < s[1]; ++h)
      for (int64_t w = 0; w < s[2]; ++w) f(d, h, w);
}

template <typename T>
void fprop(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e, const TensorView& y) {
  const int64_t group_c = p.c / p.groups, group_k = p.k / p.groups;
  parallel_for(p.n * p.k, [&](int64_t task) {
    const int64_t n = task / p.k, k = task % p.k, c0 = k / group_k * group_c;
    for_positions(p.out, [&](int64_t o, int64_t q, int64_t r) {
      accumulate_t<T> acc{};
      for_taps(p, o, q, r, [&](int64_t d, int64_t h, int64_t v, int64_t td, int64_t th, int64_t tw) {
        for (int64_t c = 0; c < group_c; ++c)
          multiply_add(acc, load(data<T>(x) + offset(x, n, c0 + c, d, h, v)),
                       load(data<T>(w) + offset(w, k, c, td, th, tw)));
      });
      const int64_t at[kDims] = {n, k, o, q, r};
      store_result<T>(e, y, at, acc);
    });
  });
}

template <typename T>
void dgrad(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e, const TensorView& dx) {
  const int64_t group_c = p.c / p.groups, group_k = p.k / p.groups;
  parallel_for(p.n * p.c, [&](int64_t task) {
    const int64_t n = task / p.c, c = task % p.c, k0 = c / group_c * group_k;
    for_positions(p.in, [&](int64_t d, int64_t h, int64_t v) {
      accumulate_t<T> acc{};
      for_positions(p.filter, [&](int64_t td, int64_t th, int64_t tw) {
        const int64_t o = output_of(p, 0, d, td), q = output_of(p, 1, h, th), r = output_of(p, 2, v, tw);
        if (o < 0 || q < 0 || r < 0) return;
        for (int64_t k = k0; k < k0 + group_k; ++k)
          multiply_add(acc, load(data<T>(dy) + offset(dy, n, k, o, q, r)),
                       load(data<T>(w) + offset(w, k, c % group_c, td, th, tw)));
      });
      const int64_t at[kDims] = {n, c, d, h, v};
      store_result<T>(e, dx, at, acc);
    });
  });
}

template <typename T>
void wgrad(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  const int64_t group_c = p.c / p.groups, group_k = p.k / p.groups;
  parallel_for(p.k * group_c, [&](int64_t task) {
    const int64_t k = task / group_c, c = task % group_c, xc = k / group_k * group_c + c;
    for_positions(p.filter, [&](int64_t td, int64_t th, int64_t tw) {
      accumulate_t<T> acc{};
      for (int64_t n = 0; n < p.n; ++n)
        for_positions(p.out, [&](int64_t o, int64_t q, int64_t r) {
          const int64_t d = o * p.stride[0] - p.pad_before[0] + td * p.dilation[0];
          const int64_t h = q * p.stride[1] - p.pad_before[1] + th * p.dilation[1];
          const int64_t v = r * p.stride[2] - p.pad_before[2] + tw * p.dilation[2];
          if (d < 0 || d >= p.in[0] || h < 0 || h >= p.in[1] || v < 0 || v >= p.in[2]) return;
          multiply_add(acc, load(data<T>(dy) + offset(dy, n, k, o, q, r)),
                       load(data<T>(x) + offset(x, n, xc, d, h, v)));
        });
      store(data<T>(dw) + offset(dw, k, c, td, th, tw), acc);
    });
  });
}

// Calls f(Type<T>) for every dtype that convolution accepts.
template <typename F>
bool visit_conv(DType t, const F& f) {
  if (visit_floating(t, f) || visit_integral(t, f)) return true;
  if (t == DType::kComplex64) return f(Type<complex<float>>{}), true;
  if (t == DType::kComplex128) return f(Type<complex<double>>{}), true;
  return false;
}

Status done(bool dtype_known) { return dtype_known ? kOk : Status{"conv_direct has no kernel for this dtype"}; }

}  // namespace

const char* conv_direct_supports(ConvOp, const ConvProblem& p, const ConvTensors&) {
  return p.padding_mode != PaddingMode::kZeros ? "conv_direct reads zero padding only" : nullptr;
}

Status conv_fprop_direct(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                         const TensorView& y) {
  return done(visit_conv(y.dtype, [&](auto t) { fprop<typename decltype(t)::type>(p, x, w, e, y); }));
}

Status conv_dgrad_direct(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                         const TensorView& dx) {
  return done(visit_conv(dx.dtype, [&](auto t) { dgrad<typename decltype(t)::type>(p, dy, w, e, dx); }));
}

Status conv_wgrad_direct(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return done(visit_conv(dw.dtype, [&](auto t) { wgrad<typename decltype(t)::type>(p, dy, x, dw); }));
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
