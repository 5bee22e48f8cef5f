// The C++ CPU kernels of one instruction set, one declaration per algorithm; cpu/algorithms.h orders them.
#pragma once

#include "core/launchers.h"
#include "core/parallel.h"

namespace convkit {
inline namespace CONVKIT_ISA {

const char* conv_depthwise_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_depthwise(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                            const TensorView& y);
Status conv_dgrad_depthwise(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                            const TensorView& dx);
Status conv_wgrad_depthwise(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);

const char* conv_grouped_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_grouped(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                          const TensorView& y);
Status conv_dgrad_grouped(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                          const TensorView& dx);
Status conv_wgrad_grouped(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);

const char* conv_direct_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_direct(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                         const TensorView& y);
Status conv_dgrad_direct(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                         const TensorView& dx);
Status conv_wgrad_direct(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
const char* conv_gemm_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_gemm(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                       const TensorView& y);
Status conv_dgrad_gemm(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                       const TensorView& dx);
Status conv_wgrad_gemm(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
Status conv_bgrad(const TensorView& dy, const TensorView& db);

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
