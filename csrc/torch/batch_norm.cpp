// The operators of batch normalisation.
#include "torch/batch_norm.h"

#include "torch/target.h"

namespace convkit::binding {
namespace {

// x, and what normalises it.
struct Call {
  int spatial_dims;
  TensorView x;
  BatchNorm norm;
};

Call norm_call(const Tensor& x, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
               const OptionalTensor& bias, const OptionalTensor& residual, int64_t activation, double alpha) {
  const int dims = static_cast<int>(x.dim()) - 2;
  Call c{dims, view(x, dims, "x"), {}};
  const auto vector = [&](const OptionalTensor& t, const char* name) {
    return channel_data(t, c.x, channel_dtype(c.x.dtype), name);
  };
  c.norm.mean = vector(mean, "mean");
  c.norm.invstd = vector(invstd, "invstd");
  c.norm.weight = vector(weight, "weight");
  c.norm.bias = vector(bias, "bias");
  if (residual) c.norm.residual = view_like(*residual, c.x, dims, "residual");
  c.norm.activation = activation_from(activation);
  c.norm.alpha = alpha;
  return c;
}

// Without channels there is nothing to do, and no number to read.
bool has_channels(const Tensor& x) { return x.size(1) > 0; }

Result result_like(const Tensor& x, const Call& c, bool wanted, bool channels_last) {
  return allocate(x, x.scalar_type(), c.spatial_dims, wanted ? c.x.size[kN] : 0, c.x.size[kC], spatial_of(c.x),
                  channels_last);
}

// dx, and dresidual or a tensor without elements and a view without data.
struct Gradients {
  Result dx, dresidual;
  Gradients(const Tensor& x, const Call& c, bool with_residual, bool channels_last)
      : dx(result_like(x, c, true, channels_last)), dresidual(result_like(x, c, with_residual, channels_last)) {
    if (!with_residual) dresidual.view.data = nullptr;
  }
};

}  // namespace

std::tuple<Tensor, Tensor> bn_stats(const Tensor& x) {
  const TensorView xv = view(x, static_cast<int>(x.dim()) - 2, "x");
  const Tensor mean = channel_vector(x, xv), var = channel_vector(x, xv);
  if (has_channels(x)) check(Target(x)->bn_stats(xv, {mean.mutable_data_ptr(), var.mutable_data_ptr()}));
  return {mean, var};
}

Tensor bn_act(const Tensor& x, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
              const OptionalTensor& bias, const OptionalTensor& residual, int64_t activation, double alpha,
              bool channels_last) {
  const Call c = norm_call(x, mean, invstd, weight, bias, residual, activation, alpha);
  const Result z = result_like(x, c, true, channels_last);
  if (has_channels(x)) check(Target(x, mean, invstd, weight, bias, residual)->bn_act(c.norm, c.x, z.view));
  return z.tensor;
}

std::tuple<Tensor, Tensor> bn_act_bwd_reduce(const Tensor& dz, const Tensor& x, const Tensor& mean,
                                             const Tensor& invstd, const OptionalTensor& weight,
                                             const OptionalTensor& bias, const OptionalTensor& residual,
                                             int64_t activation, double alpha) {
  const Call c = norm_call(x, mean, invstd, weight, bias, residual, activation, alpha);
  const TensorView dzv = view_like(dz, c.x, c.spatial_dims, "dz");
  const Tensor dbias = channel_vector(x, c.x), dweight = channel_vector(x, c.x);
  if (has_channels(x))
    check(Target(dz, x, mean, invstd, weight, bias, residual)
              ->bn_act_bwd_reduce(c.norm, dzv, c.x, dbias.mutable_data_ptr(), dweight.mutable_data_ptr()));
  return {dbias, dweight};
}

std::tuple<Tensor, Tensor> bn_act_bwd(const Tensor& dz, const Tensor& x, const Tensor& mean, const Tensor& invstd,
                                      const OptionalTensor& weight, const OptionalTensor& bias,
                                      const OptionalTensor& residual, const OptionalTensor& dbias,
                                      const OptionalTensor& dweight, int64_t count, int64_t activation, double alpha,
                                      bool with_residual, bool channels_last) {
  const Call c = norm_call(x, mean, invstd, weight, bias, residual, activation, alpha);
  const TensorView dzv = view_like(dz, c.x, c.spatial_dims, "dz");
  STD_TORCH_CHECK(count >= 0 && (count == 0 || (dbias && dweight)),
                  "convkit: argument 'count' must be 0, or positive and given with 'dbias' and 'dweight', got ", count);
  const DType wide = channel_dtype(c.x.dtype);
  const BatchNormSums sums{channel_data(dbias, c.x, wide, "dbias"), channel_data(dweight, c.x, wide, "dweight"), count};
  const Gradients to(x, c, with_residual, channels_last);
  if (has_channels(x))
    check(Target(dz, x, mean, invstd, weight, bias, residual, dbias, dweight)
              ->bn_act_bwd(c.norm, sums, dzv, c.x, to.dx.view, to.dresidual.view));
  return {to.dx.tensor, to.dresidual.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> bn_act_grad(const Tensor& dz, const Tensor& x, const Tensor& mean,
                                                       const Tensor& invstd, const OptionalTensor& weight,
                                                       const OptionalTensor& bias, const OptionalTensor& residual,
                                                       int64_t count, int64_t activation, double alpha,
                                                       bool with_residual, bool channels_last) {
  const Call c = norm_call(x, mean, invstd, weight, bias, residual, activation, alpha);
  const TensorView dzv = view_like(dz, c.x, c.spatial_dims, "dz");
  STD_TORCH_CHECK(count >= 0, "convkit: argument 'count' must be 0 or positive, got ", count);
  const Gradients to(x, c, with_residual, channels_last);
  const Tensor dbias = channel_vector(x, c.x), dweight = channel_vector(x, c.x);
  if (has_channels(x))
    check(Target(dz, x, mean, invstd, weight, bias, residual)
              ->bn_act_grad(c.norm, count, dzv, c.x,
                            {to.dx.view, to.dresidual.view, dbias.mutable_data_ptr(), dweight.mutable_data_ptr()}));
  return {to.dx.tensor, to.dresidual.tensor, dbias, dweight};
}

}  // namespace convkit::binding
