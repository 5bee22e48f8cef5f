// The launcher table of one instruction set.
#include "core/launchers.h"
#include "cpu/algorithms.h"
#include "cpu/bn_kernels.h"
#include "cpu/bn_moments.h"
#include "cpu/pool_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

using Convolution = ConvSelection<kConvAlgorithms>;

}  // namespace

extern const Launchers kLaunchers;
const Launchers kLaunchers = {
    Convolution::fprop,
    Convolution::dgrad,
    Convolution::wgrad,
    conv_bgrad,
    Convolution::plan,
    Convolution::name,
    max_pool,
    pool_select,
    pool_select_bwd,
    pool_indices,
    avg_pool,
    avg_pool_bwd,
    max_unpool,
    plane_gather,
    plane_scatter,
    fractional_max_pool,
    stochastic_pool,
    stochastic_mean,
    stochastic_mean_bwd,
    lp_pool,
    lp_pool_bwd,
    conv_fprop_stats,
    bn_stats,
    bn_act,
    bn_act_bwd_reduce,
    bn_act_bwd,
    bn_act_grad,
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
