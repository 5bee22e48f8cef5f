// From torch tensors and packed specs to the core's problems and views: the only place that does it.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "core/launchers.h"

namespace convkit::binding {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

// What problem.pack_conv packs: n, stride n, pad_before n, pad_after n, dilation n, groups, padding_mode,
// activation, algorithm, allow_tf32, channels_last.
struct ConvSpec {
  int spatial_dims;
  Spatial stride, pad_before, pad_after, dilation;
  int64_t groups, padding_mode, activation, algorithm;
  bool allow_tf32, channels_last;
};
ConvSpec unpack_conv(const Ints& packed);

// What problem.pack_pool packs: n, kernel n, stride n, pad_before n, pad_after n, dilation n, output size n (of
// adaptive windows; -1: sliding windows), ceil_mode, count_include_pad, divisor_override, channels_last.
struct PoolSpec {
  int spatial_dims;
  Spatial kernel, stride, pad_before, pad_after, dilation;
  Spatial out;  // of adaptive windows
  bool adaptive;
  bool ceil_mode, count_include_pad;
  int64_t divisor_override;
  bool channels_last;
};
PoolSpec unpack_pool(const Ints& packed);

// n spatial sizes (1 to 3) as (d, h, w), missing leading ones 1.
Spatial spatial_from(const Ints& sizes);

// A device as the Stable ABI names it; index -1 where there is one of its type only.
struct Place {
  int32_t type, index;
};
// The device of all tensors of a call (nullptr: none was given); refuses tensors of several.
Place common_place(std::initializer_list<const Tensor*> tensors);

// Views a tensor of 2 + spatial_dims dimensions; refuses others, and dtypes without kernels.
TensorView view(const Tensor& t, int spatial_dims, const char* name);

// The same of one that must have another's shape and dtype.
TensorView view_like(const Tensor& t, const TensorView& other, int spatial_dims, const char* name);

// A fresh result of sizes N C (spatial_dims last of D H W), contiguous or channels last, beside its view.
struct Result {
  Tensor tensor;
  TensorView view;
};
Result allocate(const Tensor& like, torch::headeronly::ScalarType dtype, int spatial_dims, int64_t n, int64_t c,
                const Spatial& size, bool channels_last);

// Memory of the processor's own for a large result, which may be untouched yet.
void ask_for_large_pages(void* data, int64_t bytes);

// A fresh vector of one number per channel of `v`, in its accumulate type.
Tensor channel_vector(const Tensor& like, const TensorView& v);
// The memory of such a vector; nullptr for none. Refuses other sizes, dtypes and strides.
const void* channel_data(const OptionalTensor& t, const TensorView& v, DType dtype, const char* name);

// Refuses a number that names no activation.
Activation activation_from(int64_t number);

// The problem of fprop given its input's and filter's sizes; refuses what does not fit.
ConvProblem conv_problem(const ConvSpec& spec, int64_t n, int64_t c, int64_t k, const Spatial& in,
                         const Spatial& filter);
PoolProblem pool_problem(const PoolSpec& spec, int64_t n, int64_t c, const Spatial& in);

Epilogue epilogue(const OptionalTensor& bias, const OptionalTensor& scale, const OptionalTensor& residual,
                  const ConvSpec& spec, double alpha, const TensorView& result);

// Throws for a refusal.
void check(Status status);

Spatial spatial_of(const TensorView& v);

}  // namespace convkit::binding
