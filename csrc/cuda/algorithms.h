// The GPU's algorithms of convolution, in order of preference; core/selection.h reads the table.
#pragma once

#include "core/selection.h"
#include "cuda/conv_kernels.h"

namespace convkit::cuda {

// The packed rows are the same kernels for operands of any layout and number of channels, which are copied first; their
// `supports` weighs the copies against conv_direct (the costs stand in conv_igemm.cu).
constexpr ConvAlgorithm kConvAlgorithms[] = {
    {"conv_depthwise", conv_depthwise_supports, conv_fprop_depthwise, conv_dgrad_depthwise, conv_wgrad_depthwise},
    {"conv_igemm_tf32", conv_igemm_tf32_supports, conv_fprop_igemm_tf32, conv_dgrad_igemm_tf32, conv_wgrad_igemm_tf32,
     conv_fprop_stats_igemm_tf32},
    {"conv_igemm", conv_igemm_supports, conv_fprop_igemm, conv_dgrad_igemm, conv_wgrad_igemm, conv_fprop_stats_igemm},
    {"conv_igemm_packed_tf32", conv_igemm_packed_tf32_supports, conv_fprop_igemm_tf32, conv_dgrad_igemm_tf32,
     conv_wgrad_igemm_tf32, conv_fprop_stats_igemm_tf32},
    {"conv_igemm_packed", conv_igemm_packed_supports, conv_fprop_igemm, conv_dgrad_igemm, conv_wgrad_igemm,
     conv_fprop_stats_igemm},
    {"conv_direct", conv_direct_supports, conv_fprop_direct, conv_dgrad_direct, conv_wgrad_direct},
};

}  // namespace convkit::cuda
