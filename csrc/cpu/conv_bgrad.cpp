// conv_bgrad: db[k] = sum over n, o, q, r of dy[n,k,o,q,r].
//
// Mapping   one task per channel.
#include "cpu/kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T>
void sum_channels(const TensorView& dy, const TensorView& db) {
  parallel_for(dy.size[kC], [&](int64_t k) {
    accumulate_t<T> sum{};
    for (int64_t n = 0; n < dy.size[kN]; ++n)
      for (int64_t d = 0; d < dy.size[kD]; ++d)
        for (int64_t h = 0; h < dy.size[kH]; ++h)
          for (int64_t w = 0; w < dy.size[kW]; ++w)
            sum = static_cast<accumulate_t<T>>(sum + load(data<T>(dy) + offset(dy, n, k, d, h, w)));
    store(data<T>(db) + k * db.stride[kC], sum);
  });
}

}  // namespace

Status conv_bgrad(const TensorView& dy, const TensorView& db) {
  const auto run = [&](auto t) { sum_channels<typename decltype(t)::type>(dy, db); };
  if (visit_floating(dy.dtype, run) || visit_integral(dy.dtype, run)) return kOk;
  if (dy.dtype == DType::kComplex64) return run(Type<complex<float>>{}), kOk;
  if (dy.dtype == DType::kComplex128) return run(Type<complex<double>>{}), kOk;
  return {"conv_bgrad has no kernel for this dtype"};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
