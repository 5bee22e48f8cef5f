// The operators of Lp pooling.
#include <algorithm>

#include "torch/pool.h"
#include "torch/target.h"

namespace convkit::binding {
namespace {

using torch::headeronly::ScalarType;

LpPower power_of(const OptionalTensor& exponent, double p, bool norm) {
  LpPower power{p, nullptr, DType::kFloat64, norm};
  if (!exponent) return power;
  STD_TORCH_CHECK(exponent->numel() == 1, "convkit: 'exponent' must have one element, got ", exponent->numel());
  switch (exponent->scalar_type()) {
    case ScalarType::Float: power.dtype = DType::kFloat32; break;
    case ScalarType::Double: power.dtype = DType::kFloat64; break;
    case ScalarType::BFloat16: power.dtype = DType::kBFloat16; break;
    case ScalarType::Half: power.dtype = DType::kFloat16; break;
    default: STD_TORCH_CHECK(false, "convkit: 'exponent' must have a floating dtype");
  }
  power.exponent = exponent->data_ptr();
  return power;
}

}  // namespace

Tensor lp_pool(const Tensor& x, const OptionalTensor& exponent, const Ints& packed, double p, bool norm) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView xv = view(x, spec.spatial_dims, "x");
  const PoolProblem problem = pool_problem(spec, xv.size[kN], xv.size[kC], spatial_of(xv));
  const LpPower power = power_of(exponent, p, norm);
  Result y = allocate(x, x.scalar_type(), spec.spatial_dims, problem.n, problem.c, problem.out, spec.channels_last);
  check(Target(x, exponent)->lp_pool(problem, power, xv, y.view));
  return y.tensor;
}

Tensor lp_pool_bwd(const Tensor& dy, const Tensor& x, const Tensor& y, const OptionalTensor& exponent,
                   const Ints& packed, double p, bool norm) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView xv = view(x, spec.spatial_dims, "x");
  const PoolProblem problem = pool_problem(spec, xv.size[kN], xv.size[kC], spatial_of(xv));
  const LpPower power = power_of(exponent, p, norm);
  TensorView expected = xv;
  const int64_t sizes[kDims] = {problem.n, problem.c, problem.out[0], problem.out[1], problem.out[2]};
  std::copy(sizes, sizes + kDims, expected.size);
  const TensorView yv = view_like(y, expected, spec.spatial_dims, "y");
  const TensorView dyv = view_like(dy, expected, spec.spatial_dims, "dy");
  Result dx = allocate(dy, dy.scalar_type(), spec.spatial_dims, problem.n, problem.c, problem.in, spec.channels_last);
  check(Target(dy, x, y, exponent)->lp_pool_bwd(problem, power, dyv, xv, yv, dx.view));
  return dx.tensor;
}

}  // namespace convkit::binding
