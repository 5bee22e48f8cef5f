// The operators of stochastic pooling.
#include "torch/pool.h"
#include "torch/target.h"

namespace convkit::binding {
namespace {

using torch::headeronly::ScalarType;

struct Operands {
  PoolSpec spec;
  TensorView x;
  PoolProblem problem;
};

Operands operands(const Tensor& x, const Ints& packed) {
  const PoolSpec spec = unpack_pool(packed);
  STD_TORCH_CHECK(!spec.adaptive, "convkit: stochastic pooling has no adaptive windows");
  const TensorView xv = view(x, spec.spatial_dims, "x");
  return {spec, xv, pool_problem(spec, xv.size[kN], xv.size[kC], spatial_of(xv))};
}

Result allocate_output(const Tensor& like, ScalarType dtype, const Operands& o) {
  const PoolProblem& p = o.problem;
  return allocate(like, dtype, o.spec.spatial_dims, p.n, p.c, p.out, o.spec.channels_last);
}

}  // namespace

std::tuple<Tensor, Tensor> stochastic_pool(const Tensor& x, const Tensor& seed, const Ints& packed) {
  const Operands o = operands(x, packed);
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "convkit: 'seed' must be one int64 number");
  Result y = allocate_output(x, x.scalar_type(), o), offsets = allocate_output(x, offset_dtype(o.problem), o);
  check(Target(x, seed)->stochastic_pool(o.problem, o.x, static_cast<const int64_t*>(seed.data_ptr()), y.view,
                                         offsets.view));
  return {y.tensor, offsets.tensor};
}

Tensor stochastic_mean(const Tensor& x, const Ints& packed) {
  const Operands o = operands(x, packed);
  Result y = allocate_output(x, x.scalar_type(), o);
  check(Target(x)->stochastic_mean(o.problem, o.x, y.view));
  return y.tensor;
}

Tensor stochastic_mean_bwd(const Tensor& dy, const Tensor& x, const Tensor& y, const Ints& packed) {
  const Operands o = operands(x, packed);
  const PoolProblem& p = o.problem;
  const TensorView dyv = view(dy, o.spec.spatial_dims, "dy"), yv = view(y, o.spec.spatial_dims, "y");
  STD_TORCH_CHECK(dyv.dtype == o.x.dtype && yv.dtype == o.x.dtype, "convkit: 'dy', 'x' and 'y' must have one dtype");
  check_output(p, dyv, "dy");
  check_output(p, yv, "y");
  Result sums = allocate_output(x, o.x.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float, o);
  Result dx = allocate(x, x.scalar_type(), o.spec.spatial_dims, p.n, p.c, p.in, o.spec.channels_last);
  check(Target(dy, x, y)->stochastic_mean_bwd(p, dyv, o.x, yv, sums.view, dx.view));
  return dx.tensor;
}

}  // namespace convkit::binding
