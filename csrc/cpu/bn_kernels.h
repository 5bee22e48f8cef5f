// The C++ CPU kernels of one instruction set for batch normalisation.
#pragma once

#include "core/batch_norm.h"
#include "core/parallel.h"
#include "core/status.h"
#include "core/tensor_view.h"

namespace convkit {
inline namespace CONVKIT_ISA {

Status bn_stats(const TensorView& x, const ChannelStatistics&);
Status bn_act(const BatchNorm&, const TensorView& x, const TensorView& z);
Status bn_act_grad(const BatchNorm&, int64_t count, const TensorView& dz, const TensorView& x,
                   const BatchNormGradients&);

// bn_act_bwd_reduce, which writes g = dz act' to a tensor too, unless its data is nullptr.
Status bn_act_bwd_sums(const BatchNorm&, const TensorView& dz, const TensorView& x, const TensorView& g, void* dbias,
                       void* dweight);
Status bn_act_bwd_reduce(const BatchNorm&, const TensorView& dz, const TensorView& x, void* dbias, void* dweight);
Status bn_act_bwd(const BatchNorm&, const BatchNormSums&, const TensorView& dz, const TensorView& x,
                  const TensorView& dx, const TensorView& dresidual);

}  // namespace CONVKIT_ISA
}  // namespace convkit
