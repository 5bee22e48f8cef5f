// The CUDA kernels' launchers for convolution, one declaration per algorithm; cuda/algorithms.h orders them.
#pragma once

#include "core/batch_norm.h"
#include "core/conv_problem.h"
#include "core/epilogue.h"
#include "core/status.h"
#include "core/tensor_view.h"

namespace convkit::cuda {

const char* conv_depthwise_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_depthwise(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                            const TensorView& y);
Status conv_dgrad_depthwise(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                            const TensorView& dx);
Status conv_wgrad_depthwise(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
// On tensor cores, after copies of operands in other layouts; float32 exactly or, by the algorithms of tf32, with
// operands rounded to TF32.
const char* conv_igemm_supports(ConvOp, const ConvProblem&, const ConvTensors&);
const char* conv_igemm_tf32_supports(ConvOp, const ConvProblem&, const ConvTensors&);
const char* conv_igemm_packed_supports(ConvOp, const ConvProblem&, const ConvTensors&);
const char* conv_igemm_packed_tf32_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_igemm(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                        const TensorView& y);
Status conv_fprop_igemm_tf32(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                             const TensorView& y);
Status conv_fprop_stats_igemm(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                              const TensorView& y, const ChannelStatistics&);
Status conv_fprop_stats_igemm_tf32(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                                   const TensorView& y, const ChannelStatistics&);
Status conv_dgrad_igemm(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                        const TensorView& dx);
Status conv_dgrad_igemm_tf32(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                             const TensorView& dx);
Status conv_wgrad_igemm(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
Status conv_wgrad_igemm_tf32(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);

const char* conv_direct_supports(ConvOp, const ConvProblem&, const ConvTensors&);
Status conv_fprop_direct(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                         const TensorView& y);
Status conv_dgrad_direct(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&,
                         const TensorView& dx);
Status conv_wgrad_direct(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
Status conv_bgrad(const TensorView& dy, const TensorView& db);

}  // namespace convkit::cuda
