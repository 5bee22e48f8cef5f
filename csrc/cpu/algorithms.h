// The CPU's algorithms of convolution, in order of preference; core/selection.h reads the table. The last row
// supports whatever zero padding allows.
#pragma once

#include "core/selection.h"
#include "cpu/conv_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

constexpr ConvAlgorithm kConvAlgorithms[] = {
    {"conv_depthwise", conv_depthwise_supports, conv_fprop_depthwise, conv_dgrad_depthwise, conv_wgrad_depthwise},
    {"conv_grouped", conv_grouped_supports, conv_fprop_grouped, conv_dgrad_grouped, conv_wgrad_grouped},
    {"conv_gemm", conv_gemm_supports, conv_fprop_gemm, conv_dgrad_gemm, conv_wgrad_gemm},
    {"conv_direct", conv_direct_supports, conv_fprop_direct, conv_dgrad_direct, conv_wgrad_direct},
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
