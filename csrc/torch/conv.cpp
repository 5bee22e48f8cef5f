// The convolution operators.
#include "torch/conv.h"

#include "torch/target.h"

namespace convkit::binding {
namespace {

void check_same(bool same, const char* what) { STD_TORCH_CHECK(same, "convkit: ", what); }

// Takes dy's size as the problem's output size. Windows at the end may be missing: the output_padding of a
// transposed convolution may exceed the stride, where dilation does too.
void take_output_size(ConvProblem* p, const TensorView& dy) {
  const Spatial size = spatial_of(dy);
  for (int i = 0; i < kMaxSpatial; ++i) {
    STD_TORCH_CHECK((size[i] > 0 || p->n == 0) && size[i] <= p->out[i], "convkit: argument 'dy' has size ", size[i],
                    " in a spatial dimension where at most ", p->out[i], " windows fit");
    p->out[i] = size[i];
  }
}

// A convolution ready to run: its problem, the views of its two arguments, and its result.
struct Call {
  ConvProblem problem;
  TensorView a, b;
  Result result;
};

Call fprop_call(const Tensor& x, const Tensor& w, const ConvSpec& spec) {
  const TensorView xv = view(x, spec.spatial_dims, "x"), wv = view(w, spec.spatial_dims, "w");
  check_same(xv.dtype == wv.dtype, "'x' and 'w' must have one dtype");
  check_same(wv.size[kC] * spec.groups == xv.size[kC], "'w' must have C / groups channels");
  const ConvProblem p = conv_problem(spec, xv.size[kN], xv.size[kC], wv.size[kN], spatial_of(xv), spatial_of(wv));
  return {p, xv, wv, allocate(x, x.scalar_type(), spec.spatial_dims, p.n, p.k, p.out, spec.channels_last)};
}

Call dgrad_call(const Tensor& dy, const Tensor& w, const Ints& input_size, const ConvSpec& spec) {
  const TensorView dyv = view(dy, spec.spatial_dims, "dy"), wv = view(w, spec.spatial_dims, "w");
  check_same(dyv.dtype == wv.dtype, "'dy' and 'w' must have one dtype");
  check_same(wv.size[kN] == dyv.size[kC], "'w' must have as many filters as 'dy' has channels");
  check_same(input_size.size() == static_cast<size_t>(spec.spatial_dims), "'input_size' has the wrong length");
  ConvProblem p = conv_problem(spec, dyv.size[kN], wv.size[kC] * spec.groups, wv.size[kN], spatial_from(input_size),
                               spatial_of(wv));
  take_output_size(&p, dyv);
  return {p, dyv, wv, allocate(dy, dy.scalar_type(), spec.spatial_dims, p.n, p.c, p.in, spec.channels_last)};
}

Call wgrad_call(const Tensor& dy, const Tensor& x, const Ints& kernel_size, const ConvSpec& spec) {
  const TensorView dyv = view(dy, spec.spatial_dims, "dy"), xv = view(x, spec.spatial_dims, "x");
  check_same(dyv.dtype == xv.dtype, "'dy' and 'x' must have one dtype");
  check_same(dyv.size[kN] == xv.size[kN], "'dy' and 'x' must have one batch size");
  check_same(kernel_size.size() == static_cast<size_t>(spec.spatial_dims), "'kernel_size' has the wrong length");
  ConvProblem p = conv_problem(spec, xv.size[kN], xv.size[kC], dyv.size[kC], spatial_of(xv), spatial_from(kernel_size));
  take_output_size(&p, dyv);
  return {p, dyv, xv,
          allocate(dy, dy.scalar_type(), spec.spatial_dims, p.k, p.c / p.groups, p.filter, spec.channels_last)};
}

}  // namespace

Tensor conv_fprop(const Tensor& x, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& packed, double alpha) {
  const ConvSpec spec = unpack_conv(packed);
  const Call c = fprop_call(x, w, spec);
  const TensorView& y = c.result.view;
  check(Target(x, w, bias, scale, residual)
            ->conv_fprop(c.problem, c.a, c.b, epilogue(bias, scale, residual, spec, alpha, y), y));
  return c.result.tensor;
}

std::tuple<Tensor, Tensor, Tensor> conv_fprop_stats(const Tensor& x, const Tensor& w, const OptionalTensor& bias,
                                                    const Ints& packed) {
  const ConvSpec spec = unpack_conv(packed);
  STD_TORCH_CHECK(spec.activation == 0, "convkit: conv_fprop_stats has no activation, got ", spec.activation);
  const Call c = fprop_call(x, w, spec);
  const TensorView& y = c.result.view;
  const Tensor mean = channel_vector(x, y), var = channel_vector(x, y);
  check(Target(x, w, bias)
            ->conv_fprop_stats(c.problem, c.a, c.b, epilogue(bias, {}, {}, spec, 0.0, y), y,
                               {mean.mutable_data_ptr(), var.mutable_data_ptr()}));
  return {c.result.tensor, mean, var};
}

Tensor conv_dgrad(const Tensor& dy, const Tensor& w, const OptionalTensor& bias, const OptionalTensor& scale,
                  const OptionalTensor& residual, const Ints& input_size, const Ints& packed, double alpha) {
  const ConvSpec spec = unpack_conv(packed);
  const Call c = dgrad_call(dy, w, input_size, spec);
  const TensorView& dx = c.result.view;
  check(Target(dy, w, bias, scale, residual)
            ->conv_dgrad(c.problem, c.a, c.b, epilogue(bias, scale, residual, spec, alpha, dx), dx));
  return c.result.tensor;
}

Tensor conv_wgrad(const Tensor& dy, const Tensor& x, const Ints& kernel_size, const Ints& packed) {
  const Call c = wgrad_call(dy, x, kernel_size, unpack_conv(packed));
  check(Target(dy, x)->conv_wgrad(c.problem, c.a, c.b, c.result.view));
  return c.result.tensor;
}

int64_t conv_plan(int64_t op, const Tensor& a, const Tensor& b, const Ints& size, const Ints& packed) {
  const ConvSpec spec = unpack_conv(packed);
  const auto plan = [&](ConvOp which, const Call& c, const TensorView& x, const TensorView& w, const TensorView& y) {
    return Target(a, b)->conv_plan(which, c.problem, ConvTensors{x, w, y});
  };
  if (op == static_cast<int64_t>(ConvOp::kFprop)) {
    const Call c = fprop_call(a, b, spec);
    return plan(ConvOp::kFprop, c, c.a, c.b, c.result.view);
  }
  if (op == static_cast<int64_t>(ConvOp::kDgrad)) {
    const Call c = dgrad_call(a, b, size, spec);
    return plan(ConvOp::kDgrad, c, c.result.view, c.b, c.a);
  }
  STD_TORCH_CHECK(op == static_cast<int64_t>(ConvOp::kWgrad), "convkit: argument 'op' must be 0, 1 or 2, got ", op);
  const Call c = wgrad_call(a, b, size, spec);
  return plan(ConvOp::kWgrad, c, c.b, c.result.view, c.a);
}

Tensor conv_bgrad(const Tensor& dy) {
  const TensorView dyv = view(dy, static_cast<int>(dy.dim()) - 2, "dy");
  Result db = allocate(dy, dy.scalar_type(), 1, 1, dyv.size[kC], Spatial{{1, 1, 1}}, false);
  check(Target(dy)->conv_bgrad(dyv, db.view));
  return torch::stable::reshape(db.tensor, {dyv.size[kC]});
}

}  // namespace convkit::binding
