// The CUDA kernels' launchers for pooling.
#pragma once

#include "core/fractional_window.h"
#include "core/lp_pool.h"
#include "core/pool_problem.h"
#include "core/status.h"
#include "core/tensor_view.h"

namespace convkit::cuda {

Status max_pool(const PoolProblem&, const TensorView& x, const TensorView& y, const TensorView& offsets);
Status avg_pool(const PoolProblem&, const TensorView& x, const TensorView& y);
Status avg_pool_bwd(const PoolProblem&, const TensorView& dy, const TensorView& dx);
Status pool_select(const PoolProblem&, const TensorView& x, const TensorView& offsets, const TensorView& y);
Status pool_select_bwd(const PoolProblem&, const TensorView& dy, const TensorView& offsets, const TensorView& dx);
Status pool_indices(const PoolProblem&, const TensorView& offsets, const TensorView& indices);
Status lp_pool(const PoolProblem&, const LpPower&, const TensorView& x, const TensorView& y);
Status lp_pool_bwd(const PoolProblem&, const LpPower&, const TensorView& dy, const TensorView& x, const TensorView& y,
                   const TensorView& dx);
Status stochastic_pool(const PoolProblem&, const TensorView& x, const int64_t* seed, const TensorView& y,
                       const TensorView& offsets);
Status stochastic_mean(const PoolProblem&, const TensorView& x, const TensorView& y);
Status stochastic_mean_bwd(const PoolProblem&, const TensorView& dy, const TensorView& x, const TensorView& y,
                           const TensorView& sums, const TensorView& dx);
// *invalid stays as it is: a wrong index ends the kernel.
Status max_unpool(const TensorView& x, const TensorView& indices, const TensorView& y, int64_t* invalid);
Status plane_gather(const TensorView& x, const TensorView& indices, const TensorView& y);
Status plane_scatter(const TensorView& dy, const TensorView& indices, const TensorView& dx);
Status fractional_max_pool(const FractionalProblem&, const TensorView& x, const TensorView& samples,
                           const TensorView& y, const TensorView& indices);

}  // namespace convkit::cuda
