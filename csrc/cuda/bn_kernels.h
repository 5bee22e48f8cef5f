// The CUDA kernels' launchers for batch normalisation.
#pragma once

#include "core/batch_norm.h"
#include "core/status.h"

namespace convkit::cuda {

Status bn_stats(const TensorView& x, const ChannelStatistics&);
Status bn_act(const BatchNorm&, const TensorView& x, const TensorView& z);
Status bn_act_bwd_reduce(const BatchNorm&, const TensorView& dz, const TensorView& x, void* dbias, void* dweight);
Status bn_act_bwd(const BatchNorm&, const BatchNormSums&, const TensorView& dz, const TensorView& x,
                  const TensorView& dx, const TensorView& dresidual);

}  // namespace convkit::cuda
