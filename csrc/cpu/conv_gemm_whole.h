// A filter that covers the whole input: a matrix product.
//
// Each sample has one result, whose sum runs over channels and taps alike. Where input and filter keep both in the same
// order in memory, (channel, tap) pairs become the channels of a pointwise convolution (the first fully connected
// layer of LeNet or VGG, written as a convolution): no tap is looked up, and no result of dgrad meets padding.
#pragma once

#include "core/conv_problem.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// The elements that the filter meets, in memory order: one run of neighbours?
CONVKIT_INLINE bool is_one_run(const TensorView& t, int64_t channels, bool channels_first) {
  int64_t next = channels_first ? 1 : channels;
  if (!channels_first && channels > 1 && t.stride[kC] != 1) return false;
  for (int i = kMaxSpatial - 1; i >= 0; --i) {
    if (t.size[kD + i] > 1 && t.stride[kD + i] != next) return false;
    next *= t.size[kD + i];
  }
  return !channels_first || channels == 1 || t.stride[kC] == next;
}

// Turns the problem and the views of input and filter (x or dx, w or dw) into a pointwise convolution, if it is one.
CONVKIT_INLINE void flatten_whole(ConvProblem* p, TensorView* x, TensorView* w) {
  if (p->groups != 1 || volume(p->out) != 1 || volume(p->filter) == 1) return;
  for (int i = 0; i < kMaxSpatial; ++i)
    if (p->filter[i] != p->in[i] || p->pad_before[i] != 0 || (p->dilation[i] != 1 && p->filter[i] > 1)) return;
  const bool planes = is_one_run(*x, p->c, true) && is_one_run(*w, p->c, true);
  if (!planes && !(is_one_run(*x, p->c, false) && is_one_run(*w, p->c, false))) return;
  p->c *= volume(p->filter);
  p->in = p->filter = p->stride = p->dilation = {{1, 1, 1}};
  p->pad_after = {{0, 0, 0}};
  TensorView* const views[] = {x, w};
  for (TensorView* t : views) {
    t->size[kC] = p->c;
    t->stride[kC] = 1;
    for (int i = kD; i < kDims; ++i) t->size[i] = 1;
  }
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
