// bn_act_grad: the whole gradient of bn_act, sums and all.
//
// Computes  bn_act_bwd_reduce, then bn_act_bwd with its sums over `count` elements.
// Layout    any strides.
// Mapping   where channels lie in planes of their own, a task is both passes over some channels, 32 k elements or one
//           channel: their tensors lie in the second-level cache when the second pass reads them again. Where channels
//           are neighbours, or too few to share, the passes run one after the other over everything.
// Memory    g = dz act'(v) is kept by the first pass where it is wanted (dresidual) or costs an elementary function
//           (where dx will be), in dtypes that hold it as it is: the second pass then reads two tensors, not up to
//           three, and no function is computed twice.
#include "core/parallel.h"
#include "cpu/bn_kernels.h"
#include "cpu/bn_walk.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kLeastTasks = 16;

Status both_passes(const BatchNorm& b, int64_t count, const TensorView& dz, const TensorView& x,
                   const BatchNormGradients& to) {
  const BatchNormSums sums{to.dbias, to.dweight, count};
  const bool wanted = to.dresidual.data != nullptr;
  const bool keeps = channel_dtype(x.dtype) == x.dtype && (wanted || !is_piecewise(b.activation));
  TensorView g = wanted ? to.dresidual : to.dx;
  if (!keeps) g.data = nullptr;
  const Status status = bn_act_bwd_sums(b, dz, x, g, to.dbias, to.dweight);
  if (!status.ok()) return status;
  if (!keeps) return bn_act_bwd(b, sums, dz, x, to.dx, to.dresidual);
  BatchNorm rest = b;
  rest.activation = Activation::kIdentity;
  rest.residual.data = nullptr;
  return bn_act_bwd(rest, sums, g, x, to.dx, rest.residual);
}

}  // namespace

Status bn_act_grad(const BatchNorm& b, int64_t count, const TensorView& dz, const TensorView& x,
                   const BatchNormGradients& to) {
  const int64_t channels = x.size[kC], of_channel = numel(x) / channels;
  const int64_t group = clamped(kTask / (of_channel + 1), 1, channels), tasks = ceil_of(channels, group);
  if (channels_are_neighbours(x) || channels_are_neighbours(to.dx) || tasks < kLeastTasks)
    return both_passes(b, count, dz, x, to);
  const char* reason = nullptr;
  parallel_for(tasks, [&](int64_t task) {
    const int64_t first = task * group, width = least(group, channels - first);
    const auto part = [&](const TensorView& t) { return sliced(t, kC, first, width); };
    const auto vector = [&](const void* v) {
      return v == nullptr ? nullptr : static_cast<const char*>(v) + first * dtype_bytes(channel_dtype(x.dtype));
    };
    BatchNorm of_part = b;
    of_part.mean = vector(b.mean);
    of_part.invstd = vector(b.invstd);
    of_part.weight = vector(b.weight);
    of_part.bias = vector(b.bias);
    of_part.residual = part(b.residual);
    const BatchNormGradients there{part(to.dx), part(to.dresidual), const_cast<char*>(vector(to.dbias)),
                                   const_cast<char*>(vector(to.dweight))};
    const Status status = both_passes(of_part, count, part(dz), part(x), there);
    if (!status.ok()) __atomic_store_n(&reason, status.reason, __ATOMIC_RELAXED);
  });
  return Status{reason};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
