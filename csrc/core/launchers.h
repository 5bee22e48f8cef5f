// THE contract between bindings and kernels: every raw operation once per device.
//
// Views are non-owning. Result tensors are allocated by the caller, fully written by the launcher, and may
// have any strides without overlap; inputs may have any strides, zero and negative included. Sizes agree
// with the problem (the caller checked). All tensors of a call share one floating, integral or complex dtype,
// except offsets (uint8, int16 or int32 by offset_bytes) and indices (int64).
#pragma once

#include "core/batch_norm.h"
#include "core/conv_problem.h"
#include "core/epilogue.h"
#include "core/fractional_window.h"
#include "core/lp_pool.h"
#include "core/pool_problem.h"
#include "core/status.h"
#include "core/tensor_view.h"

namespace convkit {

// One table per instruction set or device, in this order.
struct Launchers {
  // y = epilogue(conv(x, w))
  Status (*conv_fprop)(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                       const TensorView& y);
  // dx = epilogue(adjoint of fprop in x); forwards it is transposed convolution
  Status (*conv_dgrad)(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                       const TensorView& dx);
  // dw = adjoint of fprop in w
  Status (*conv_wgrad)(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
  // db[k] = sum of dy over batch and space; db is a view of size 1 K 1 1 1
  Status (*conv_bgrad)(const TensorView& dy, const TensorView& db);
  // Number of the algorithm that would run (from 1); 0: none supports the problem, or the one asked for does not
  int64_t (*conv_plan)(ConvOp, const ConvProblem&, const ConvTensors&);
  // Name of an algorithm, nullptr beyond the last
  const char* (*conv_algorithm)(int64_t number);
  // y = window maximum; offsets.data may be nullptr
  Status (*max_pool)(const PoolProblem&, const TensorView& x, const TensorView& y, const TensorView& offsets);
  // y[o] = x[element named by offsets[o]]
  Status (*pool_select)(const PoolProblem&, const TensorView& x, const TensorView& offsets, const TensorView& y);
  // dx = adjoint of pool_select
  Status (*pool_select_bwd)(const PoolProblem&, const TensorView& dy, const TensorView& offsets, const TensorView& dx);
  // indices[o] = flat position of offsets[o] in the unpadded plane
  Status (*pool_indices)(const PoolProblem&, const TensorView& offsets, const TensorView& indices);
  // y = window sum / divisor
  Status (*avg_pool)(const PoolProblem&, const TensorView& x, const TensorView& y);
  // dx = adjoint of avg_pool
  Status (*avg_pool_bwd)(const PoolProblem&, const TensorView& dy, const TensorView& dx);
  // y[indices[o]] = x[o] by flat indices, of equal ones the last; zero elsewhere. kInvalidIndex if one lies outside
  // of y's planes: *invalid is the last of them, and y is undefined
  Status (*max_unpool)(const TensorView& x, const TensorView& indices, const TensorView& y, int64_t* invalid);
  // y[o] = x[indices[o]] by flat indices, 0 where an index lies outside of x's planes
  Status (*plane_gather)(const TensorView& x, const TensorView& indices, const TensorView& y);
  // dx = adjoint of plane_gather
  Status (*plane_scatter)(const TensorView& dy, const TensorView& indices, const TensorView& dx);
  // y = maxima of windows that samples place, indices = their flat positions; indices.data may be nullptr.
  // samples is a view of N C 1 1 (values per plane)
  Status (*fractional_max_pool)(const FractionalProblem&, const TensorView& x, const TensorView& samples,
                                const TensorView& y, const TensorView& indices);
  // y = one element of each window, drawn with probabilities proportional to the elements by *seed, and its offset
  Status (*stochastic_pool)(const PoolProblem&, const TensorView& x, const int64_t* seed, const TensorView& y,
                            const TensorView& offsets);
  // y = the expectation of stochastic_pool
  Status (*stochastic_mean)(const PoolProblem&, const TensorView& x, const TensorView& y);
  // dx = its gradient; sums is memory of y's size and x's accumulate type (double for double, else float)
  Status (*stochastic_mean_bwd)(const PoolProblem&, const TensorView& dy, const TensorView& x, const TensorView& y,
                                const TensorView& sums, const TensorView& dx);
  // y = the root of the window sum of powers; only the windows of the problem count, not its divisors
  Status (*lp_pool)(const PoolProblem&, const LpPower&, const TensorView& x, const TensorView& y);
  // dx = the gradient of lp_pool, whose result is y
  Status (*lp_pool_bwd)(const PoolProblem&, const LpPower&, const TensorView& dy, const TensorView& x,
                        const TensorView& y, const TensorView& dx);
  // y = epilogue(conv(x, w)), and the statistics of y's channels as stored
  Status (*conv_fprop_stats)(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                             const TensorView& y, const ChannelStatistics&);
  // The statistics of x's channels; NaN where there are no elements
  Status (*bn_stats)(const TensorView& x, const ChannelStatistics&);
  // z = act((x - mean) invstd weight + bias + residual)
  Status (*bn_act)(const BatchNorm&, const TensorView& x, const TensorView& z);
  // dbias = the sums of dz act' per channel, dweight = those of dz act' (x - mean) invstd; both in x's accumulate type
  Status (*bn_act_bwd_reduce)(const BatchNorm&, const TensorView& dz, const TensorView& x, void* dbias, void* dweight);
  // dx = the gradient of bn_act in x, dresidual = dz act'; dresidual.data may be nullptr
  Status (*bn_act_bwd)(const BatchNorm&, const BatchNormSums&, const TensorView& dz, const TensorView& x,
                       const TensorView& dx, const TensorView& dresidual);
  // Both in one: bn_act_bwd with the sums of bn_act_bwd_reduce, which are results too
  Status (*bn_act_grad)(const BatchNorm&, int64_t count, const TensorView& dz, const TensorView& x,
                        const BatchNormGradients&);
};

namespace cpu {

// The table of the best instruction set of this processor (or of CONVKIT_CPU_ISA, read once).
const Launchers& launchers();
const char* instruction_set();

}  // namespace cpu

namespace cuda {

// The GPU's table, or, where the kernels were compiled for it, the SIMT emulator's.
const Launchers& launchers();

}  // namespace cuda
}  // namespace convkit
