// The algorithms of convolution, in order of preference: the only code that selects one.
//
// An automatic choice (ConvProblem.algorithm 0) takes the first row that supports the problem. Number i
// names row i - 1, which runs or refuses. So a new algorithm is one file and one row; a row that is better
// only sometimes says when in `supports`. The last row supports whatever zero padding allows.
#pragma once

#include "cpu/kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

struct ConvAlgorithm {
  const char* name;
  // nullptr, or why this algorithm does not run `op` on such tensors.
  const char* (*supports)(ConvOp op, const ConvProblem&, const ConvTensors&);
  Status (*fprop)(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&, const TensorView& y);
  Status (*dgrad)(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&, const TensorView& dx);
  Status (*wgrad)(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
};

constexpr ConvAlgorithm kConvAlgorithms[] = {
    {"conv_depthwise", conv_depthwise_supports, conv_fprop_depthwise, conv_dgrad_depthwise, conv_wgrad_depthwise},
    {"conv_grouped", conv_grouped_supports, conv_fprop_grouped, conv_dgrad_grouped, conv_wgrad_grouped},
    {"conv_gemm", conv_gemm_supports, conv_fprop_gemm, conv_dgrad_gemm, conv_wgrad_gemm},
    {"conv_direct", conv_direct_supports, conv_fprop_direct, conv_dgrad_direct, conv_wgrad_direct},
};
constexpr int64_t kConvAlgorithmCount = sizeof(kConvAlgorithms) / sizeof(kConvAlgorithms[0]);

}  // namespace CONVKIT_ISA
}  // namespace convkit
