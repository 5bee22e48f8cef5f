// The pooling operators.
#include "torch/pool.h"

#include "torch/target.h"

namespace convkit::binding {

using torch::headeronly::ScalarType;

ScalarType offset_dtype(const PoolProblem& p) {
  const int64_t bytes = offset_bytes(p);
  return bytes == 1 ? ScalarType::Byte : bytes == 2 ? ScalarType::Short : ScalarType::Int;
}

PoolProblem problem_of(const PoolSpec& spec, const TensorView& out, const Ints& input_size) {
  STD_TORCH_CHECK(input_size.size() == static_cast<size_t>(spec.spatial_dims),
                  "convkit: 'input_size' has the wrong length");
  const PoolProblem p = pool_problem(spec, out.size[kN], out.size[kC], spatial_from(input_size));
  for (int i = 0; i < kMaxSpatial; ++i)
    STD_TORCH_CHECK(p.out[i] == spatial_of(out)[i], "convkit: output does not have the size 'input_size' leads to");
  return p;
}

void check_output(const PoolProblem& p, const TensorView& view, const char* name) {
  const int64_t expected[kDims] = {p.n, p.c, p.out[0], p.out[1], p.out[2]};
  for (int i = 0; i < kDims; ++i)
    STD_TORCH_CHECK(view.size[i] == expected[i], "convkit: '", name, "' must have the output's shape");
}

namespace {

void check_offsets(const PoolProblem& p, const Tensor& offsets, const TensorView& view) {
  STD_TORCH_CHECK(offsets.scalar_type() == offset_dtype(p), "convkit: 'offsets' has the wrong dtype");
  check_output(p, view, "offsets");
}

}  // namespace

std::tuple<Tensor, Tensor> max_pool(const Tensor& x, const Ints& packed, bool offsets) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView xv = view(x, spec.spatial_dims, "x");
  const PoolProblem p = pool_problem(spec, xv.size[kN], xv.size[kC], spatial_of(xv));
  Result y = allocate(x, x.scalar_type(), spec.spatial_dims, p.n, p.c, p.out, spec.channels_last);
  Result o = allocate(x, offset_dtype(p), spec.spatial_dims, offsets ? p.n : 0, p.c, p.out, spec.channels_last);
  if (!offsets) o.view.data = nullptr;
  check(Target(x)->max_pool(p, xv, y.view, o.view));
  return {y.tensor, o.tensor};
}

Tensor pool_select(const Tensor& x, const Tensor& offsets, const Ints& packed) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView xv = view(x, spec.spatial_dims, "x"), ov = view(offsets, spec.spatial_dims, "offsets");
  const PoolProblem p = pool_problem(spec, xv.size[kN], xv.size[kC], spatial_of(xv));
  check_offsets(p, offsets, ov);
  Result y = allocate(x, x.scalar_type(), spec.spatial_dims, p.n, p.c, p.out, spec.channels_last);
  check(Target(x, offsets)->pool_select(p, xv, ov, y.view));
  return y.tensor;
}

Tensor pool_select_bwd(const Tensor& dy, const Tensor& offsets, const Ints& input_size, const Ints& packed) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView dyv = view(dy, spec.spatial_dims, "dy"), ov = view(offsets, spec.spatial_dims, "offsets");
  const PoolProblem p = problem_of(spec, dyv, input_size);
  check_offsets(p, offsets, ov);
  Result dx = allocate(dy, dy.scalar_type(), spec.spatial_dims, p.n, p.c, p.in, spec.channels_last);
  check(Target(dy, offsets)->pool_select_bwd(p, dyv, ov, dx.view));
  return dx.tensor;
}

Tensor pool_indices(const Tensor& offsets, const Ints& input_size, const Ints& packed) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView ov = view(offsets, spec.spatial_dims, "offsets");
  const PoolProblem p = problem_of(spec, ov, input_size);
  check_offsets(p, offsets, ov);
  Result indices = allocate(offsets, ScalarType::Long, spec.spatial_dims, p.n, p.c, p.out, spec.channels_last);
  check(Target(offsets)->pool_indices(p, ov, indices.view));
  return indices.tensor;
}

Tensor avg_pool(const Tensor& x, const Ints& packed) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView xv = view(x, spec.spatial_dims, "x");
  const PoolProblem p = pool_problem(spec, xv.size[kN], xv.size[kC], spatial_of(xv));
  Result y = allocate(x, x.scalar_type(), spec.spatial_dims, p.n, p.c, p.out, spec.channels_last);
  check(Target(x)->avg_pool(p, xv, y.view));
  return y.tensor;
}

Tensor avg_pool_bwd(const Tensor& dy, const Ints& input_size, const Ints& packed) {
  const PoolSpec spec = unpack_pool(packed);
  const TensorView dyv = view(dy, spec.spatial_dims, "dy");
  const PoolProblem p = problem_of(spec, dyv, input_size);
  Result dx = allocate(dy, dy.scalar_type(), spec.spatial_dims, p.n, p.c, p.in, spec.channels_last);
  check(Target(dy)->avg_pool_bwd(p, dyv, dx.view));
  return dx.tensor;
}

}  // namespace convkit::binding
