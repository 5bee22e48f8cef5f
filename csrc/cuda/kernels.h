// The CUDA kernels' launchers, one declaration per algorithm; cuda/algorithms.h orders them.
#pragma once

#include "core/launchers.h"

namespace convkit::cuda {

const char* conv_direct_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_direct(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                         const TensorView& y);
Status conv_dgrad_direct(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                         const TensorView& dx);
Status conv_wgrad_direct(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
Status conv_bgrad(const TensorView& dy, const TensorView& db);

Status max_pool(const PoolProblem&, const TensorView& x, const TensorView& y, const TensorView& offsets);
Status avg_pool(const PoolProblem&, const TensorView& x, const TensorView& y);
Status avg_pool_bwd(const PoolProblem&, const TensorView& dy, const TensorView& dx);
Status pool_select(const PoolProblem&, const TensorView& x, const TensorView& offsets, const TensorView& y);
Status pool_select_bwd(const PoolProblem&, const TensorView& dy, const TensorView& offsets, const TensorView& dx);
Status pool_indices(const PoolProblem&, const TensorView& offsets, const TensorView& indices);

}  // namespace convkit::cuda
