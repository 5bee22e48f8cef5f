// conv_direct: fprop and dgrad on CUDA cores, by the definition.
//
// Computes  result[i] = epilogue(sum over taps and channels of source * w), the sliding sum of core/conv_window.h:
//           fprop, and dgrad by stride phases, without products with inserted zeros.
// Layout    any strides, any groups
// Mapping   a block is a tile of 256 x 4 positions of one image (and phase) by 4 result channels of one group; a thread
//           holds 4 x 4 sums. Neighbouring threads hold neighbouring positions: sources are read coalesced along W
//           (C where channels are neighbours is left to the cache), filters broadcast.
// Memory    no staging: each source element is read once per tap and tile of 4 channels, from L1 where tiles overlap
// Limits    floating dtypes, zero padding. It serves float64, few channels and odd layouts; nothing else is as general.
#include "core/conv_epilogue.h"
#include "cuda/conv_gather.h"
#include "cuda/conv_kernels.h"

namespace convkit::cuda {
namespace {

constexpr int kMostThreads = 256, kPositions = 4, kChannels = 4;

struct Direct {
  Gather gather;
  // blockIdx.x -> (image, tile of positions), .y -> (group, tile of channels), .z -> phase of each dimension
  Divider position_tiles, channel_tiles;
};

template <typename T>
__global__ void __launch_bounds__(kMostThreads) gather_direct(const Direct direct) {
  using A = accumulate_t<T>;
  const Gather& g = direct.gather;
  Phase* phase = static_cast<Phase*>(shared_memory());
  find_phases(g, phase);

  const int32_t apart = static_cast<int32_t>(blockDim.x);  // between a thread's positions
  int32_t n = static_cast<int32_t>(blockIdx.x), group = static_cast<int32_t>(blockIdx.y);
  const int32_t first = direct.position_tiles.take(&n) * (apart * kPositions) + static_cast<int32_t>(threadIdx.x);
  const int32_t channel = direct.channel_tiles.take(&group) * kChannels;
  const int32_t channels = g.result_channels - channel < kChannels ? g.result_channels - channel : kChannels;
  const int32_t positions = phase[0].length * phase[1].length * phase[2].length;
  if (first >= positions) return;

  // This thread's windows; positions beyond the last repeat it, and are not stored.
  int32_t at[kPositions][3];
  const T* window[kPositions];
  const T* image = static_cast<const T*>(g.source.data) + n * g.source.stride[kN] +
                   static_cast<int64_t>(group) * g.source_channels * g.source.stride[kC];
  CONVKIT_UNROLL
  for (int j = 0; j < kPositions; ++j) {
    int32_t position = first + j * apart < positions ? first + j * apart : positions - 1;
    window[j] = image;
    CONVKIT_UNROLL
    for (int i = 2; i >= 0; --i) {
      at[j][i] = position % phase[i].length * phase[i].step + phase[i].src;
      position /= phase[i].length;
      window[j] += at[j][i] * g.source.stride[kD + i];
    }
  }

  A sum[kPositions][kChannels] = {};
  const T* tile = static_cast<const T*>(g.w) + group * g.w_group + channel * g.w_result;
  int32_t move[3], taps[3];
  for (taps[0] = 0; taps[0] < phase[0].count; ++taps[0])
    for (taps[1] = 0; taps[1] < phase[1].count; ++taps[1])
      for (taps[2] = 0; taps[2] < phase[2].count; ++taps[2]) {
        const T* w = tile;
        int64_t moved = 0;
        CONVKIT_UNROLL
        for (int i = 0; i < 3; ++i) {
          move[i] = taps[i] * phase[i].src_step;
          moved += move[i] * g.source.stride[kD + i];
          w += (phase[i].tap + taps[i] * phase[i].tap_step) * g.w_tap[i];
        }
        const T* from[kPositions];
        bool inside[kPositions];
        CONVKIT_UNROLL
        for (int j = 0; j < kPositions; ++j) {
          from[j] = window[j] + moved;
          inside[j] = true;
          CONVKIT_UNROLL
          for (int i = 0; i < 3; ++i)  // unsigned: one comparison for both ends
            inside[j] &= static_cast<uint32_t>(at[j][i] + move[i]) < static_cast<uint32_t>(phase[i].source);
        }
        for (int32_t c = 0; c < g.source_channels; ++c) {
          A x[kPositions];
          CONVKIT_UNROLL
          for (int j = 0; j < kPositions; ++j) x[j] = inside[j] ? load(from[j] + c * g.source.stride[kC]) : A(0);
          CONVKIT_UNROLL
          for (int k = 0; k < kChannels; ++k) {
            const A v = k < channels ? load(w + k * g.w_result + c * g.w_source) : A(0);
            CONVKIT_UNROLL
            for (int j = 0; j < kPositions; ++j) sum[j][k] += x[j] * v;
          }
        }
      }

  CONVKIT_UNROLL
  for (int j = 0; j < kPositions; ++j) {
    if (first + j * apart >= positions) continue;
    int64_t where[kDims] = {n};
    for (int i = 0; i < 3; ++i)
      where[kD + i] = (at[j][i] - phase[i].src) / phase[i].step * g.axis[i].phases + phase[i].number;
    CONVKIT_UNROLL
    for (int k = 0; k < kChannels; ++k) {
      if (k >= channels) continue;
      where[kC] = static_cast<int64_t>(group) * g.result_channels + channel + k;
      store_result<T>(g.epilogue, g.result, where, sum[j][k]);
    }
  }
}

Status run(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w, const Epilogue& e,
           const TensorView& result) {
  if (numel(result) == 0) return kOk;
  Direct direct{make_gather(p, adjoint, source, w, e, result), {}, {}};
  const Gather& g = direct.gather;
  const int64_t positions = positions_of_phase(g);
  const int64_t count = whole_warps(ceil_div(positions, kPositions), kMostThreads);
  const int64_t position_tiles = ceil_div(positions, count * kPositions);
  const int64_t channel_tiles = ceil_div(g.result_channels, kChannels);
  if (position_tiles * p.n > kMostBlocksX || channel_tiles * p.groups > kMostBlocksY || g.phases > kMostBlocksY)
    return {"conv_direct: more tiles than one grid has blocks"};
  direct.position_tiles = Divider(position_tiles);
  direct.channel_tiles = Divider(channel_tiles);
  Status status = kOk;
  visit_floating(result.dtype, [&](auto t) {
    const Grid grid{blocks(position_tiles * p.n, channel_tiles * p.groups, g.phases), threads(count),
                    3 * sizeof(Phase)};
    status = launch(gather_direct<typename decltype(t)::type>, grid, Direct(direct));
  });
  return status;
}

}  // namespace

const char* conv_direct_supports(ConvOp, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_direct reads zero padding only";
  const DType dtype = t.x.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kFloat64 && dtype != DType::kBFloat16 && dtype != DType::kFloat16)
    return "conv_direct has floating point kernels only";
  if (!positions_fit(p)) return "conv_direct counts positions in 32 bits";
  return nullptr;
}

Status conv_fprop_direct(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                         const TensorView& y) {
  return run(p, false, x, w, e, y);
}

Status conv_dgrad_direct(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                         const TensorView& dx) {
  return run(p, true, dy, w, e, dx);
}

}  // namespace convkit::cuda
