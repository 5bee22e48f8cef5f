// The operators on flat indices: unpooling, selection by index and its adjoint, fractional pooling.
#include "torch/pool_flat.h"

#include <stdexcept>
#include <string>

#include "torch/target.h"

namespace convkit::binding {
namespace {

using torch::headeronly::ScalarType;

int spatial_dims(const Tensor& t) { return static_cast<int>(t.dim()) - 2; }

Spatial sizes(const Ints& given, const Tensor& t, const char* name) {
  STD_TORCH_CHECK(static_cast<int64_t>(given.size()) == t.dim() - 2, "convkit: '", name, "' must have ", t.dim() - 2,
                  " sizes, got ", given.size());
  return spatial_from(given);
}

TensorView index_view(const Tensor& indices, int dims) {
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, "convkit: 'indices' must be of dtype int64");
  return view(indices, dims, "indices");
}

void check_shape(const TensorView& indices, const TensorView& like, int dims) {
  for (int i = 0; i < dims; ++i)
    STD_TORCH_CHECK(indices.size[i] == like.size[i], "convkit: 'indices' has size ", indices.size[i],
                    " in dimension N C D H W ", i, ", the tensor it belongs to ", like.size[i]);
}

std::string joined(const Ints& values) {
  std::string text;
  for (const int64_t v : values) text += (text.empty() ? "" : "x") + std::to_string(v);
  return values.size() == 1 ? text + "x1" : text;  // PyTorch unpools a row as an image of width 1
}

}  // namespace

Tensor max_unpool(const Tensor& x, const Tensor& indices, const Ints& output_size, bool channels_last) {
  const int dims = spatial_dims(x);
  const TensorView xv = view(x, dims, "x"), iv = index_view(indices, dims);
  check_shape(iv, xv, kDims);
  Result y =
      allocate(x, x.scalar_type(), dims, xv.size[kN], xv.size[kC], sizes(output_size, x, "output_size"), channels_last);
  int64_t invalid = 0;
  const Status status = Target(x, indices)->max_unpool(xv, iv, y.view, &invalid);
  // Not STD_TORCH_CHECK, which puts this file's name before PyTorch's words.
  if (status.reason == kInvalidIndex.reason)
    throw std::runtime_error("Found an invalid max index: " + std::to_string(invalid) +
                             " (output volumes are of size " + joined(output_size) +
                             "): an index must lie in its volume");
  check(status);
  return y.tensor;
}

Tensor plane_gather(const Tensor& x, const Tensor& indices, bool channels_last) {
  const int dims = spatial_dims(x);
  const TensorView xv = view(x, dims, "x"), iv = index_view(indices, dims);
  check_shape(iv, xv, kD);
  Result y = allocate(x, x.scalar_type(), dims, xv.size[kN], xv.size[kC], spatial_of(iv), channels_last);
  check(Target(x, indices)->plane_gather(xv, iv, y.view));
  return y.tensor;
}

Tensor plane_scatter(const Tensor& dy, const Tensor& indices, const Ints& input_size, bool channels_last) {
  const int dims = spatial_dims(dy);
  const TensorView dyv = view(dy, dims, "dy"), iv = index_view(indices, dims);
  check_shape(iv, dyv, kDims);
  Result dx = allocate(dy, dy.scalar_type(), dims, dyv.size[kN], dyv.size[kC], sizes(input_size, dy, "input_size"),
                       channels_last);
  check(Target(dy, indices)->plane_scatter(dyv, iv, dx.view));
  return dx.tensor;
}

std::tuple<Tensor, Tensor> fractional_max_pool(const Tensor& x, const Tensor& samples, const Ints& kernel_size,
                                               const Ints& output_size, bool with_indices, bool channels_last) {
  const int dims = spatial_dims(x);
  const TensorView xv = view(x, dims, "x"), sv = view(samples, 1, "samples");
  const Spatial in = spatial_of(xv), kernel = sizes(kernel_size, x, "kernel_size");
  const Spatial out = sizes(output_size, x, "output_size");
  STD_TORCH_CHECK(
      sv.dtype == xv.dtype && sv.size[kN] >= xv.size[kN] && sv.size[kC] == xv.size[kC] && sv.size[kW] == dims,
      "convkit: 'samples' must be of x's dtype, and hold ", dims, " numbers per plane of x");
  const FractionalProblem p{xv.size[kN], xv.size[kC], in, kernel, out, dims};
  for (int i = 0; i < kMaxSpatial; ++i) {
    STD_TORCH_CHECK(kernel[i] >= 1 && (out[i] == 0 || (kernel[i] <= in[i] && out[i] <= in[i] - kernel[i] + 1)),
                    "convkit: windows of size ", kernel[i], " cannot give ", out[i], " outputs from an input of size ",
                    in[i]);
  }
  Result y = allocate(x, x.scalar_type(), dims, p.n, p.c, out, channels_last);
  Result indices = allocate(x, ScalarType::Long, dims, with_indices ? p.n : 0, p.c, out, channels_last);
  if (!with_indices) indices.view.data = nullptr;
  if (numel(y.view) == 0) return {y.tensor, indices.tensor};
  check(Target(x, samples)->fractional_max_pool(p, xv, sv, y.view, indices.view));
  return {y.tensor, indices.tensor};
}

}  // namespace convkit::binding
