// The CUDA kernels' launchers for pooling.
#pragma once

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

}  // namespace convkit::cuda
