// The CUDA kernels' launchers for batch normalisation.
#pragma once

#include "core/batch_norm.h"
#include "core/status.h"

namespace convkit::cuda {

// Channels' elements in parts: of `each` of them, the last part of what is left.
struct StatisticsParts {
  int64_t elements, each, parts, channels;
};

Status bn_stats(const TensorView& x, const ChannelStatistics&);
// Merges what an implicit GEMM found of its row tiles: [part][shift, sum, sum of squares][channel].
Status merge_tile_statistics(const float* tiles, const StatisticsParts&, const ChannelStatistics&);
Status bn_act(const BatchNorm&, const TensorView& x, const TensorView& z);
Status bn_act_bwd_reduce(const BatchNorm&, const TensorView& dz, const TensorView& x, void* dbias, void* dweight);
Status bn_act_bwd(const BatchNorm&, const BatchNormSums&, const TensorView& dz, const TensorView& x,
                  const TensorView& dx, const TensorView& dresidual);

}  // namespace convkit::cuda
