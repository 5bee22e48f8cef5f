// The launcher table of one instruction set.
#include "cpu/kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

extern const Launchers kLaunchers;
const Launchers kLaunchers = {
    conv_fprop_direct, conv_dgrad_direct, conv_wgrad_direct, conv_bgrad, max_pool,
    pool_select,       pool_select_bwd,   pool_indices,      avg_pool,   avg_pool_bwd,
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
