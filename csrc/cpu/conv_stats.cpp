// conv_fprop_stats: a convolution, and the statistics of its result's channels while the result is in the cache.
//
// Computes  y = epilogue(conv(x, w)), and the mean and biased variance of y as stored.
// Mapping   images in groups of about 4 MB of y, as many as the processors' second caches hold together: of each group
//           the convolution by whichever algorithm is chosen, then its moments (bn_stats.cpp), merged in order.
// Memory    32 bytes per channel, in scratch memory 3, which no fprop uses.
#include "cpu/algorithms.h"
#include "cpu/bn_kernels.h"
#include "cpu/bn_moments.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kGroupBytes = 4 << 20;

}  // namespace

Status conv_fprop_stats(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                        const TensorView& y, const ChannelStatistics& statistics) {
  if (y.size[kC] == 0) return kOk;
  const int64_t channels = y.size[kC], bytes = numel(y) * dtype_bytes(y.dtype);
  const int64_t wanted = bytes / kGroupBytes + 1, groups = wanted < p.n ? wanted : p.n > 0 ? p.n : 1;
  Moments* total = static_cast<Moments*>(thread_scratch(3, static_cast<size_t>(2 * channels) * sizeof(Moments)));
  if (total == nullptr) return {"conv_fprop_stats ran out of memory"};
  Moments* of_group = total + channels;
  double elements = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group * p.n / groups, count = (group + 1) * p.n / groups - first;
    ConvProblem part = p;
    part.n = count;
    Epilogue epilogue = e;
    epilogue.residual = sliced(e.residual, kN, first, count);
    const TensorView result = sliced(y, kN, first, count);
    Status status = ConvSelection<kConvAlgorithms>::fprop(part, sliced(x, kN, first, count), w, epilogue, result);
    if (status.ok()) status = bn_moments(result, of_group);
    if (!status.ok()) return status;
    const double more = static_cast<double>(count * y.size[kD] * y.size[kH] * y.size[kW]);
    for (int64_t c = 0; c < channels; ++c)
      total[c] = group == 0 ? of_group[c] : merged(total[c], elements, of_group[c], more);
    elements += more;
  }
  store_statistics(y, total, statistics);
  return kOk;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
