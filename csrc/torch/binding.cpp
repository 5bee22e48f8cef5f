#include "torch/binding.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace convkit::binding {
namespace {

using torch::headeronly::ScalarType;

DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::Byte: return DType::kUInt8;
    case ScalarType::Char: return DType::kInt8;
    case ScalarType::Short: return DType::kInt16;
    case ScalarType::Int: return DType::kInt32;
    case ScalarType::Long: return DType::kInt64;
    case ScalarType::ComplexFloat: return DType::kComplex64;
    case ScalarType::ComplexDouble: return DType::kComplex128;
    default: STD_TORCH_CHECK(false, "convkit: argument '", name, "' has a dtype that no kernel supports");
  }
  return DType::kFloat32;
}

const char* name_of(DType t) {
  switch (t) {
    case DType::kFloat32: return "float32";
    case DType::kFloat64: return "float64";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat16: return "float16";
    default: return "the result's dtype";
  }
}

// Reads n values at `at` into the last n of (d, h, w); missing ones become `missing`.
Spatial take(const Ints& packed, size_t* at, int n, int64_t missing) {
  Spatial s{{missing, missing, missing}};
  for (int i = 0; i < n; ++i) s[kMaxSpatial - n + i] = packed[(*at)++];
  return s;
}

int take_dims(const Ints& packed, int lists, int scalars) {
  const int64_t n = packed.empty() ? 0 : packed[0];
  STD_TORCH_CHECK(n >= 1 && n <= kMaxSpatial && packed.size() == static_cast<size_t>(1 + lists * n + scalars),
                  "convkit: malformed spec of ", packed.size(), " integers");
  return static_cast<int>(n);
}

// Sizes and positions along one dimension stay below this, so that no kernel's index arithmetic overflows.
constexpr int64_t kMostPositions = int64_t{1} << 60;

// A product of sizes; refuses one that leaves the range of positions.
int64_t product(int64_t a, int64_t b) {
  int64_t result = 0;
  STD_TORCH_CHECK(!__builtin_mul_overflow(a, b, &result) && result <= kMostPositions, "convkit: the sizes ", a, " and ",
                  b, " are too large together");
  return result;
}

void check_window(const Spatial& stride, const Spatial& before, const Spatial& after, const Spatial& dilation) {
  for (int i = 0; i < kMaxSpatial; ++i) {
    STD_TORCH_CHECK(stride[i] > 0 && dilation[i] > 0 && before[i] >= 0 && after[i] >= 0,
                    "convkit: stride and dilation must be positive and padding not negative, got stride ", stride[i],
                    ", dilation ", dilation[i], ", padding (", before[i], ", ", after[i], ")");
    STD_TORCH_CHECK(std::max({stride[i], dilation[i], before[i], after[i]}) <= kMostPositions / 4,
                    "convkit: too large a stride ", stride[i], ", dilation ", dilation[i], " or padding (", before[i],
                    ", ", after[i], ")");
  }
}

// That a window's reach and the padded input are no larger than index arithmetic allows.
void check_reach(int64_t size, int64_t kernel, int64_t dilation) {
  STD_TORCH_CHECK(size <= kMostPositions / 4 && product(kernel, dilation) <= kMostPositions / 4, "convkit: input size ",
                  size, ", kernel size ", kernel, " or dilation ", dilation, " is too large");
}

std::string name_of(const Place& place) {
  const char* type = place.type == aoti_torch_device_type_cpu()    ? "cpu"
                     : place.type == aoti_torch_device_type_cuda() ? "cuda"
                     : place.type == aoti_torch_device_type_meta() ? "meta"
                                                                   : "another device";
  return place.index < 0 ? type : std::string(type) + ":" + std::to_string(place.index);
}

Place place_of(const Tensor& t) {
  Place place{};
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &place.type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &place.index));
  return place;
}

// In torch's words, by which programs know that less may fit; its exception does not cross the stable interface.
[[noreturn]] void refuse_memory(bool of_gpu, int64_t elements) {
  throw std::runtime_error(std::string(of_gpu ? "CUDA out of memory." : "DefaultCPUAllocator: can't allocate memory:") +
                           " convkit asked torch for a result of " + std::to_string(elements) + " elements");
}

}  // namespace

Place common_place(std::initializer_list<const Tensor*> tensors) {
  const Place first = place_of(**tensors.begin());
  for (const Tensor* t : tensors) {
    const Place place = t == nullptr ? first : place_of(*t);
    // Not STD_TORCH_CHECK, which puts this file's name before PyTorch's words.
    if (place.type != first.type || place.index != first.index)
      throw std::runtime_error("Expected all tensors to be on the same device, but found at least two devices, " +
                               name_of(first) + " and " + name_of(place) + "!");
  }
  return first;
}

ConvSpec unpack_conv(const Ints& packed) {
  ConvSpec s{};
  s.spatial_dims = take_dims(packed, 4, 6);
  size_t at = 1;
  s.stride = take(packed, &at, s.spatial_dims, 1);
  s.pad_before = take(packed, &at, s.spatial_dims, 0);
  s.pad_after = take(packed, &at, s.spatial_dims, 0);
  s.dilation = take(packed, &at, s.spatial_dims, 1);
  s.groups = packed[at++];
  s.padding_mode = packed[at++];
  s.activation = packed[at++];
  s.algorithm = packed[at++];
  s.allow_tf32 = packed[at++] != 0;
  s.channels_last = packed[at++] != 0;
  check_window(s.stride, s.pad_before, s.pad_after, s.dilation);
  STD_TORCH_CHECK(s.groups > 0 && s.groups <= INT32_MAX, "convkit: groups must be positive, and not huge, got ",
                  s.groups);
  STD_TORCH_CHECK(s.padding_mode >= 0 && s.padding_mode <= static_cast<int64_t>(PaddingMode::kMean),
                  "convkit: unknown padding mode ", s.padding_mode);
  activation_from(s.activation);
  return s;
}

PoolSpec unpack_pool(const Ints& packed) {
  PoolSpec s{};
  s.spatial_dims = take_dims(packed, 6, 4);
  size_t at = 1;
  s.kernel = take(packed, &at, s.spatial_dims, 1);
  s.stride = take(packed, &at, s.spatial_dims, 1);
  s.pad_before = take(packed, &at, s.spatial_dims, 0);
  s.pad_after = take(packed, &at, s.spatial_dims, 0);
  s.dilation = take(packed, &at, s.spatial_dims, 1);
  s.out = take(packed, &at, s.spatial_dims, 1);
  s.adaptive = s.out[2] >= 0;
  s.ceil_mode = packed[at++] != 0;
  s.count_include_pad = packed[at++] != 0;
  s.divisor_override = packed[at++];
  s.channels_last = packed[at++] != 0;
  check_window(s.stride, s.pad_before, s.pad_after, s.dilation);
  int64_t window = 1;
  for (int i = 0; i < kMaxSpatial; ++i) {
    STD_TORCH_CHECK(s.kernel[i] > 0, "convkit: kernel size must be positive, got ", s.kernel[i]);
    const int64_t reach = product(s.dilation[i], s.kernel[i]) - s.dilation[i];
    STD_TORCH_CHECK(s.pad_before[i] <= reach && s.pad_after[i] <= reach,
                    "convkit: a pooling window must not lie in the padding alone, got kernel ", s.kernel[i],
                    ", padding (", s.pad_before[i], ", ", s.pad_after[i], ")");
    window = product(window, s.kernel[i]);
    if (s.adaptive)
      STD_TORCH_CHECK(
          s.out[i] >= 0 && s.stride[i] == 1 && reach == s.kernel[i] - 1 && s.pad_before[i] == 0 && s.pad_after[i] == 0,
          "convkit: adaptive windows have an output size, and neither stride, dilation nor padding");
  }
  STD_TORCH_CHECK(window <= INT32_MAX, "convkit: a pooling window has at most ", INT32_MAX, " elements, got ", window);
  return s;
}

Spatial spatial_from(const Ints& sizes) {
  STD_TORCH_CHECK(!sizes.empty() && sizes.size() <= kMaxSpatial, "convkit: expected 1 to 3 spatial sizes");
  size_t at = 0;
  const Spatial s = take(sizes, &at, static_cast<int>(sizes.size()), 1);
  for (int i = 0; i < kMaxSpatial; ++i) STD_TORCH_CHECK(s[i] >= 0, "convkit: negative size ", s[i]);
  return s;
}

TensorView view(const Tensor& t, int spatial_dims, const char* name) {
  STD_TORCH_CHECK(spatial_dims >= 1 && spatial_dims <= kMaxSpatial, "convkit: argument '", name,
                  "' must have 3, 4 or 5 dimensions, got ", t.dim());
  STD_TORCH_CHECK(t.dim() == 2 + spatial_dims, "convkit: argument '", name, "' must have ", 2 + spatial_dims,
                  " dimensions, got ", t.dim());
  TensorView v{};
  v.data = t.mutable_data_ptr();
  v.dtype = dtype_of(t, name);
  const auto sizes = t.sizes(), strides = t.strides();
  for (int i = 0; i < kDims; ++i) v.size[i] = 1;
  for (int i = 0; i < 2 + spatial_dims; ++i) {
    const int to = i < 2 ? i : kDims - spatial_dims + (i - 2);
    v.size[to] = sizes[static_cast<size_t>(i)];
    v.stride[to] = strides[static_cast<size_t>(i)];
  }
  return v;
}

Result allocate(const Tensor& like, ScalarType dtype, int spatial_dims, int64_t n, int64_t c, const Spatial& size,
                bool channels_last) {
  int64_t sizes[kDims] = {n, c}, strides[kDims] = {};
  const int dims = 2 + spatial_dims;
  for (int i = 0; i < spatial_dims; ++i) sizes[2 + i] = size[kMaxSpatial - spatial_dims + i];
  int64_t step = channels_last ? std::max<int64_t>(c, 1) : 1;
  for (int i = dims - 1; i >= (channels_last ? 2 : 1); --i) {
    strides[i] = step;
    step = product(step, std::max<int64_t>(sizes[i], 1));
  }
  strides[0] = step;
  if (channels_last) strides[1] = 1;
  const int64_t elements = product(step, std::max<int64_t>(n, 1));
  product(elements, 16);  // bytes of the widest dtype
  AtenTensorHandle handle = nullptr;
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  if (aoti_torch_empty_strided(dims, sizes, strides,
                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type,
                               like.get_device_index(), &handle) != AOTI_TORCH_SUCCESS)
    refuse_memory(device_type == aoti_torch_device_type_cuda(), elements);
  Result r{Tensor(handle), {}};
  r.view = view(r.tensor, spatial_dims, "result");
  if (device_type == aoti_torch_device_type_cpu())
    ask_for_large_pages(r.view.data, numel(r.view) * dtype_bytes(r.view.dtype));
  return r;
}

TensorView view_like(const Tensor& t, const TensorView& other, int spatial_dims, const char* name) {
  const TensorView v = view(t, spatial_dims, name);
  STD_TORCH_CHECK(std::equal(v.size, v.size + kDims, other.size) && v.dtype == other.dtype, "convkit: argument '", name,
                  "' has the wrong shape or dtype");
  return v;
}

Tensor channel_vector(const Tensor& like, const TensorView& v) {
  const ScalarType wide = v.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  return torch::stable::reshape(allocate(like, wide, 1, 1, v.size[kC], Spatial{{1, 1, 1}}, false).tensor, {v.size[kC]});
}

const void* channel_data(const OptionalTensor& t, const TensorView& v, DType dtype, const char* name) {
  if (!t) return nullptr;
  STD_TORCH_CHECK(t->dim() == 1 && t->size(0) == v.size[kC] && (t->size(0) <= 1 || t->stride(0) == 1) &&
                      dtype_of(*t, name) == dtype,
                  "convkit: argument '", name, "' must be a contiguous vector of ", v.size[kC], " elements in ",
                  name_of(dtype));
  return t->data_ptr();
}

Activation activation_from(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= static_cast<int64_t>(Activation::kGelu), "convkit: unknown activation ",
                  number);
  return static_cast<Activation>(number);
}

ConvProblem conv_problem(const ConvSpec& spec, int64_t n, int64_t c, int64_t k, const Spatial& in,
                         const Spatial& filter) {
  ConvProblem p{};
  p.n = n;
  p.c = c;
  p.k = k;
  p.groups = spec.groups;
  p.in = in;
  p.filter = filter;
  p.stride = spec.stride;
  p.pad_before = spec.pad_before;
  p.pad_after = spec.pad_after;
  p.dilation = spec.dilation;
  p.padding_mode = static_cast<PaddingMode>(spec.padding_mode);
  p.algorithm = spec.algorithm;
  p.allow_tf32 = spec.allow_tf32;
  STD_TORCH_CHECK(c % spec.groups == 0 && k % spec.groups == 0, "convkit: ", c, " input and ", k,
                  " output channels must be divisible by groups ", spec.groups);
  for (int i = 0; i < kMaxSpatial; ++i) {
    STD_TORCH_CHECK(filter[i] > 0, "convkit: kernel size must be positive, got ", filter[i]);
    check_reach(in[i], filter[i], p.dilation[i]);
    p.out[i] = conv_output_size(in[i], filter[i], p.stride[i], p.pad_before[i], p.pad_after[i], p.dilation[i]);
    STD_TORCH_CHECK(p.out[i] > 0 || n == 0, "convkit: kernel size ", filter[i],
                    " can't be greater than the padded input size ", in[i] + p.pad_before[i] + p.pad_after[i]);
  }
  return p;
}

// Adaptive windows that all have one size are sliding windows.
static PoolProblem adaptive_problem(const PoolSpec& spec, PoolProblem p) {
  bool uniform = true;
  for (int i = 0; i < kMaxSpatial; ++i) {
    STD_TORCH_CHECK(p.in[i] > 0, "convkit: pooling needs an input, got size ", p.in[i]);
    p.out[i] = spec.out[i];
    product(product(p.in[i], p.out[i] + 1), 1);
    STD_TORCH_CHECK(p.kernel[i] == largest_window(p.in[i], p.out[i]), "convkit: the largest of ", p.out[i],
                    " adaptive windows over ", p.in[i], " elements has not ", p.kernel[i]);
    uniform = uniform && p.out[i] > 0 && p.in[i] % p.out[i] == 0;
  }
  p.adaptive = !uniform;
  if (uniform) p.stride = p.kernel;
  return p;
}

PoolProblem pool_problem(const PoolSpec& spec, int64_t n, int64_t c, const Spatial& in) {
  PoolProblem p{};
  p.n = n;
  p.c = c;
  p.in = in;
  p.kernel = spec.kernel;
  p.stride = spec.stride;
  p.pad_before = spec.pad_before;
  p.pad_after = spec.pad_after;
  p.dilation = spec.dilation;
  p.ceil_mode = spec.ceil_mode;
  p.count_include_pad = spec.count_include_pad;
  p.divisor_override = spec.divisor_override;
  if (spec.adaptive) return adaptive_problem(spec, p);
  for (int i = 0; i < kMaxSpatial; ++i) {
    check_reach(in[i], p.kernel[i], p.dilation[i]);
    p.out[i] =
        pool_output_size(in[i], p.kernel[i], p.stride[i], p.pad_before[i], p.pad_after[i], p.dilation[i], p.ceil_mode);
    STD_TORCH_CHECK(p.out[i] > 0, "convkit: pooling an input of size ", in[i], " leaves no output");
  }
  return p;
}

Epilogue epilogue(const OptionalTensor& bias, const OptionalTensor& scale, const OptionalTensor& residual,
                  const ConvSpec& spec, double alpha, const TensorView& result) {
  Epilogue e{};
  e.bias = channel_data(bias, result, result.dtype, "bias");
  e.scale = channel_data(scale, result, result.dtype, "scale");
  if (residual) e.residual = view_like(*residual, result, spec.spatial_dims, "residual");
  e.activation = static_cast<Activation>(spec.activation);
  e.alpha = alpha;
  return e;
}

void check(Status status) { STD_TORCH_CHECK(status.ok(), "convkit: ", status.reason); }

Spatial spatial_of(const TensorView& v) { return Spatial{{v.size[kD], v.size[kH], v.size[kW]}}; }

}  // namespace convkit::binding
