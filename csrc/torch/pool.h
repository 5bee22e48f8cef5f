// The pooling operators' implementations, and what they share.
#pragma once

#include "torch/binding.h"

namespace convkit::binding {

torch::headeronly::ScalarType offset_dtype(const PoolProblem& p);

// A problem whose output is `out` (a view of dy, offsets or indices), from the input size it came from.
PoolProblem problem_of(const PoolSpec& spec, const TensorView& out, const Ints& input_size);

// That a tensor of a pool's output size, such as dy or y, has it.
void check_output(const PoolProblem& p, const TensorView& view, const char* name);

std::tuple<Tensor, Tensor> max_pool(const Tensor& x, const Ints& packed, bool offsets);
Tensor pool_select(const Tensor& x, const Tensor& offsets, const Ints& packed);
Tensor pool_select_bwd(const Tensor& dy, const Tensor& offsets, const Ints& input_size, const Ints& packed);
Tensor pool_indices(const Tensor& offsets, const Ints& input_size, const Ints& packed);
Tensor avg_pool(const Tensor& x, const Ints& packed);
Tensor avg_pool_bwd(const Tensor& dy, const Ints& input_size, const Ints& packed);
Tensor lp_pool(const Tensor& x, const OptionalTensor& exponent, const Ints& packed, double p, bool norm);
Tensor lp_pool_bwd(const Tensor& dy, const Tensor& x, const Tensor& y, const OptionalTensor& exponent,
                   const Ints& packed, double p, bool norm);

std::tuple<Tensor, Tensor> stochastic_pool(const Tensor& x, const Tensor& seed, const Ints& packed);
Tensor stochastic_mean(const Tensor& x, const Ints& packed);
Tensor stochastic_mean_bwd(const Tensor& dy, const Tensor& x, const Tensor& y, const Ints& packed);

}  // namespace convkit::binding
