// The C++ CPU kernels of one instruction set for pooling.
#pragma once

#include "core/fractional_window.h"
#include "core/lp_pool.h"
#include "core/parallel.h"
#include "core/pool_problem.h"
#include "core/status.h"
#include "core/tensor_view.h"

namespace convkit {
inline namespace CONVKIT_ISA {

Status max_pool(const PoolProblem&, const TensorView& x, const TensorView& y, const TensorView& offsets);
Status pool_select(const PoolProblem&, const TensorView& x, const TensorView& offsets, const TensorView& y);
Status pool_select_bwd(const PoolProblem&, const TensorView& dy, const TensorView& offsets, const TensorView& dx);
Status pool_indices(const PoolProblem&, const TensorView& offsets, const TensorView& indices);
Status avg_pool(const PoolProblem&, const TensorView& x, const TensorView& y);
Status avg_pool_bwd(const PoolProblem&, const TensorView& dy, const TensorView& dx);
Status lp_pool(const PoolProblem&, const LpPower&, const TensorView& x, const TensorView& y);
Status lp_pool_bwd(const PoolProblem&, const LpPower&, const TensorView& dy, const TensorView& x, const TensorView& y,
                   const TensorView& dx);

Status max_unpool(const TensorView& x, const TensorView& indices, const TensorView& y, int64_t* invalid);
Status plane_gather(const TensorView& x, const TensorView& indices, const TensorView& y);
Status plane_scatter(const TensorView& dy, const TensorView& indices, const TensorView& dx);
Status fractional_max_pool(const FractionalProblem&, const TensorView& x, const TensorView& samples,
                           const TensorView& y, const TensorView& indices);
Status stochastic_pool(const PoolProblem&, const TensorView& x, const int64_t* seed, const TensorView& y,
                       const TensorView& offsets);
Status stochastic_mean(const PoolProblem&, const TensorView& x, const TensorView& y);
// The divisor of both, in the accumulate type.
Status stochastic_sum(const PoolProblem&, const TensorView& x, const TensorView& sums);
Status stochastic_mean_bwd(const PoolProblem&, const TensorView& dy, const TensorView& x, const TensorView& y,
                           const TensorView& sums, const TensorView& dx);

}  // namespace CONVKIT_ISA
}  // namespace convkit
