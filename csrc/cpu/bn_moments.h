// Means and squares around them, of parts of a channel that are merged in order.
#pragma once

#include "core/batch_norm.h"
#include "core/conv_problem.h"
#include "core/epilogue.h"
#include "core/status.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// What is known of some elements of a channel: their mean, and the sum of squares around it.
struct Moments {
  double mean, squares;
};

// Adds `more` elements to `count`, which is not 0 if more is.
CONVKIT_INLINE Moments merged(Moments a, double count, Moments b, double more) {
  const double distance = b.mean - a.mean, share = more / (count + more);
  return {a.mean + distance * share, a.squares + b.squares + distance * distance * count * share};
}

// Those of each channel of x; uses this thread's scratch memory 0 and 2.
Status bn_moments(const TensorView& x, Moments* result);

// The mean and variance of x's channels, whose moments are known.
void store_statistics(const TensorView& x, const Moments* moments, const ChannelStatistics&);

// conv_stats.cpp
Status conv_fprop_stats(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                        const TensorView& y, const ChannelStatistics&);

}  // namespace CONVKIT_ISA
}  // namespace convkit
