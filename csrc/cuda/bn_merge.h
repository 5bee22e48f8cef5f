// Statistics of channels, merged from those of parts of their elements.
//
// Computes  mean = sum of count_i mean_i / count, var = sum of (squares_i + count_i (mean_i - mean)^2) / count
//           (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983); a part's mean_i and
//           squares_i around it come from sums of what differs from some value of the channel, so that a mean far from
//           0 cancels nothing
// Layout    what the parts are read by: neighbouring threads ask for neighbouring channels
// Mapping   a block takes 8 channels, a column of its threads one of them; rows take parts in turn, and their sums are
//           added in an order of their own (reduce.h). The mean comes first: an infinite one stays one.
// Memory    parts are read twice, the second time mostly from L2
// Limits    none; sums are in double, whatever the parts hold
#pragma once

#include "cuda/bn_kernels.h"
#include "cuda/device/launch.h"
#include "cuda/reduce.h"

namespace convkit::cuda {

constexpr int kMergeThreads = 512, kMergeBlocks = 1;  // per multiprocessor: left to itself, ptxas spills for more
constexpr int kMergeChannels = 8;                     // few enough for many blocks, enough for whole sectors of memory

// Sums over a part of one channel: of x - shift and of its square.
struct ShiftedSums {
  double shift, first, second;
};

// What to subtract of a channel with this value.
template <typename A>
CONVKIT_DEVICE A finite_or_zero(A v) {
  return v - v == 0 ? v : 0;
}

// parts(i, c) are the ShiftedSums of a part.
template <typename A, typename Parts>
__global__ void __launch_bounds__(kMergeThreads, kMergeBlocks)
    merge_statistics(const StatisticsParts g, const Parts parts, const ChannelStatistics to) {
  double* scratch = static_cast<double*>(shared_memory());
  const int row = static_cast<int>(threadIdx.x) / kMergeChannels;
  constexpr int kRows = kMergeThreads / kMergeChannels;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kMergeChannels + threadIdx.x % kMergeChannels;
  const int64_t c = own < g.channels ? own : g.channels - 1;  // columns without a channel keep the others company
  const auto count = [&](int64_t part) {
    const int64_t left = g.elements - part * g.each;
    return static_cast<double>(left < g.each ? left : g.each);
  };
  double total[1] = {};
  for (int64_t i = row; i < g.parts; i += kRows) {
    const ShiftedSums s = parts(i, c);
    total[0] += count(i) * s.shift + s.first;
  }
  sum_rows(total, kMergeChannels, scratch);
  const double elements = static_cast<double>(g.elements), mean = total[0] / elements;
  total[0] = 0;
  for (int64_t i = row; i < g.parts; i += kRows) {
    const ShiftedSums s = parts(i, c);
    const double share = s.first / count(i), around = s.second - s.first * share, distance = s.shift + share - mean;
    total[0] += (around < 0 ? 0 : around) + count(i) * (distance * distance);
  }
  sum_rows(total, kMergeChannels, scratch);
  const double var = total[0] / elements;
  if (row != 0 || own >= g.channels) return;
  static_cast<A*>(to.mean)[c] = static_cast<A>(mean);
  static_cast<A*>(to.var)[c] = static_cast<A>(var);
}

template <typename A, typename Parts>
Status launch_merge(const StatisticsParts& g, const Parts& parts, const ChannelStatistics& to) {
  const Grid grid{blocks(ceil_div(g.channels, kMergeChannels)), threads(kMergeThreads), kMergeThreads * sizeof(double)};
  return launch(merge_statistics<A, Parts>, grid, StatisticsParts(g), Parts(parts), ChannelStatistics(to));
}

}  // namespace convkit::cuda
