// conv_depthwise: fprop and dgrad with one filter per channel.
//
// Computes  result[i] = epilogue(sum over taps of source * w), the sliding sum of core/conv_window.h: fprop, and
//           dgrad by stride phases
// Layout    any strides; packs of 16 bytes of channels that are neighbours, else single elements with lanes along W
// Mapping   a thread makes kRows results that follow each other along H (W in one dimension) of one channel or pack:
//           with stride and dilation 1 each source element is loaded once per row of taps, and stays in a register
//           while the results pass over it. A block is a few channels of one image and phase.
// Memory    the block's filters lie in shared memory, in the type of the sums; sources come through L1, which serves
//           what taps along the other dimensions share
// Limits    floating dtypes, zero padding, as many filters as channels, a filter of at most 40 KB
#include "core/conv_epilogue.h"
#include "cuda/conv_gather.h"
#include "cuda/conv_kernels.h"
#include "cuda/device/pack.h"
#include "cuda/walk.h"

namespace convkit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kFilterBytes = 40 << 10;
constexpr int kPhases = 4;  // three, and what fills up to whole words

template <int kCount>
constexpr int kRows = kCount == 1 ? 8 : 4;

struct Depthwise {
  Gather gather;
  int32_t along, across;  // the dimensions of a thread's results and of neighbouring threads without packs: H, W
  int32_t channels, taps, block_packs;
  bool channels_first;  // of neighbouring threads
  // blockIdx.x -> (image, tile of positions, tile of channels); a block's thread -> (pack, position)
  Divider channel_tiles, position_tiles, packs, positions;
  Divider of_channel, filter_w, filter_h;  // element of the block's filters -> (channel, tap along d, h, w)
};

template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads, 2) depthwise_gather(const Depthwise g) {
  using A = accumulate_t<T>;
  constexpr int kR = kRows<kCount>;
  // Filters of neighbouring packs lie a pack of sums apart: words of 16 bytes meet the same bank half as often at most.
  constexpr int kWord = kCount < kPackCount<A> ? kCount : kPackCount<A>;
  static_assert(kPhases * sizeof(Phase) % kPackBytes == 0, "filters begin at a whole word");
  const TensorView &source = g.gather.source, &result = g.gather.result;
  Phase* phases = static_cast<Phase*>(shared_memory());
  A* filters = reinterpret_cast<A*>(phases + kPhases);
  find_phases(g.gather, phases);
  int32_t n = static_cast<int32_t>(blockIdx.x);
  const int32_t wide = g.block_packs * kCount, first_channel = g.channel_tiles.take(&n) * wide;
  const int32_t tile = g.position_tiles.take(&n);

  const int32_t live = g.channels - first_channel < wide ? g.channels - first_channel : wide;
  const int32_t filter_w = static_cast<int32_t>(g.gather.axis[2].kernel);
  const int32_t filter_h = static_cast<int32_t>(g.gather.axis[1].kernel);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < live * g.taps; i += static_cast<int32_t>(blockDim.x)) {
    int32_t c = i;
    const int32_t tap = g.of_channel.take(&c);
    int32_t t = tap;
    const int32_t s = g.filter_w.take(&t), r = g.filter_h.take(&t);
    filters[tap * wide + c] = load(static_cast<const T*>(g.gather.w) + (first_channel + c) * g.gather.w_group +
                                   s * g.gather.w_tap[2] + r * g.gather.w_tap[1] + t * g.gather.w_tap[0]);
  }
  __syncthreads();

  int32_t pack = static_cast<int32_t>(threadIdx.x), position;
  if (g.channels_first) {
    position = pack;
    pack = g.packs.take(&position);
  } else {
    position = g.positions.take(&pack);
  }
  const Phase &deep = phases[0], &across = phases[g.across], &along = phases[g.along];
  if (pack * kCount >= live || pack >= g.block_packs || position >= g.positions.divisor()) return;
  position += tile * g.positions.divisor();
  const int32_t groups = (along.length + kR - 1) / kR;
  if (position >= deep.length * groups * across.length) return;
  const int32_t j1 = position % across.length, j2 = position / across.length % groups * kR;
  const int32_t j0 = position / across.length / groups;

  const int64_t c = first_channel + pack * kCount;
  const T* image = data<T>(source) + n * source.stride[kN] + c * source.stride[kC];
  const int64_t step0 = source.stride[kD], step1 = source.stride[kD + g.across], step2 = source.stride[kD + g.along];
  const int32_t tap_across = (g.across == 2 ? 1 : filter_w) * wide, tap_along = (g.along == 2 ? 1 : filter_w) * wide;
  const int32_t tap_deep = filter_w * filter_h * wide;
  const int32_t at0 = j0 * deep.step + deep.src, at1 = j1 * across.step + across.src, at2 = j2 * along.step + along.src;
  const bool slides = along.step == 1 && along.src_step == 1;

  A sum[kR][kCount] = {};
  for (int32_t t0 = 0; t0 < deep.count; ++t0) {
    const int32_t u0 = at0 + t0 * deep.src_step;
    if (static_cast<uint32_t>(u0) >= static_cast<uint32_t>(deep.source)) continue;
    for (int32_t t1 = 0; t1 < across.count; ++t1) {
      const int32_t u1 = at1 + t1 * across.src_step;
      if (static_cast<uint32_t>(u1) >= static_cast<uint32_t>(across.source)) continue;
      const T* line = image + u0 * step0 + u1 * step1;
      const A* w = filters + (deep.tap + t0 * deep.tap_step) * tap_deep +
                   (across.tap + t1 * across.tap_step) * tap_across + along.tap * tap_along + pack * kCount;
      const int32_t w_step = along.tap_step * tap_along;
      const auto fetch = [&](int32_t u, A(&to)[kCount]) {
        if (static_cast<uint32_t>(u) >= static_cast<uint32_t>(along.source)) {
          CONVKIT_UNROLL
          for (int j = 0; j < kCount; ++j) to[j] = 0;
          return;
        }
        const auto x = load_pack<T, kCount>(line + u * step2);
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) to[j] = load(&x.v[j]);
      };
      A x[kR][kCount] = {};
      Pack<A, kWord> word{};
      if (slides) {
        CONVKIT_UNROLL
        for (int i = 0; i + 1 < kR; ++i) fetch(at2 + i, x[i]);
      }
      for (int32_t a = 0; a < along.count; ++a, w += w_step) {
        CONVKIT_UNROLL
        for (int i = 0; i < kR; ++i) {
          if (!slides)
            fetch(at2 + i * along.step + a * along.src_step, x[i]);
          else if (i == kR - 1)
            fetch(at2 + i + a, x[i]);
        }
        CONVKIT_UNROLL
        for (int j = 0; j < kCount; ++j) {
          if (j % kWord == 0) word = load_pack<A, kWord>(w + j);
          const A v = word.v[j % kWord];
          CONVKIT_UNROLL
          for (int i = 0; i < kR; ++i) {
            sum[i][j] += x[i][j] * v;
            if (slides && i > 0) x[i - 1][j] = x[i][j];
          }
        }
      }
    }
  }

  int64_t at[kDims] = {n, c};
  at[kD] = static_cast<int64_t>(j0) * g.gather.axis[0].phases + deep.number;
  const bool rows_along_w = g.along == 2;
  const int64_t where1 = j1 * (rows_along_w ? g.gather.axis[1].phases : g.gather.axis[2].phases) + across.number;
  const int64_t phases_along = rows_along_w ? g.gather.axis[2].phases : g.gather.axis[1].phases;
  CONVKIT_UNROLL
  for (int i = 0; i < kR; ++i) {
    if (j2 + i >= along.length) continue;
    const int64_t where2 = (j2 + i) * phases_along + along.number;
    at[kH] = rows_along_w ? where1 : where2;
    at[kW] = rows_along_w ? where2 : where1;
    Pack<T, kCount> pack_of;
    CONVKIT_UNROLL
    for (int j = 0; j < kCount; ++j) {
      TensorView here{};  // every element of it is this one
      here.data = &pack_of.v[j];
      at[kC] = c + j;
      store_result<T>(g.gather.epilogue, here, at, sum[i][j]);
    }
    store_pack(data<T>(result) + offset(result, n, c, at[kD], at[kH], at[kW]), pack_of);
  }
}

template <typename T, int kCount>
Status launch_gather(const ConvProblem& p, Depthwise g, bool channels_first) {
  using A = accumulate_t<T>;
  const Axis* axis = g.gather.axis;
  // Results along H, unless there is one row; then along W.
  g.along = phase_length(axis[1], 0) > 1 ? 1 : 2;
  g.across = 3 - g.along;
  g.channels = static_cast<int32_t>(p.c);
  g.taps = static_cast<int32_t>(volume(p.filter));
  g.channels_first = channels_first;
  const int64_t positions = phase_length(axis[0], 0) * phase_length(axis[g.across], 0) *
                            ceil_div(phase_length(axis[g.along], 0), kRows<kCount>);
  const int64_t packs = ceil_div(p.c, kCount),
                room = kFilterBytes / (g.taps * kCount * static_cast<int64_t>(sizeof(A)));
  // Neighbouring channels fill a warp; planes share a block only where one does not fill it.
  int64_t wanted = channels_first ? kWarpLanes : kThreads / (positions < kThreads ? positions : kThreads);
  wanted = wanted < packs ? wanted : packs;
  g.block_packs = static_cast<int32_t>(wanted < room ? wanted : room);
  int64_t block_positions = kThreads / g.block_packs;
  block_positions = block_positions < positions ? block_positions : positions;
  const int64_t channel_tiles = ceil_div(packs, g.block_packs), position_tiles = ceil_div(positions, block_positions);
  if (channel_tiles * position_tiles * p.n > kMostBlocksX || g.gather.phases > kMostBlocksY)
    return {"conv_depthwise: more tiles than one grid has blocks"};
  g.channel_tiles = Divider(channel_tiles);
  g.position_tiles = Divider(position_tiles);
  g.packs = Divider(g.block_packs);
  g.positions = Divider(block_positions);
  g.of_channel = Divider(g.taps);
  g.filter_w = Divider(axis[2].kernel);
  g.filter_h = Divider(axis[1].kernel);
  const Grid grid{blocks(channel_tiles * position_tiles * p.n, 1, g.gather.phases),
                  threads(whole_warps(block_positions * g.block_packs, kThreads)),
                  kPhases * sizeof(Phase) + static_cast<size_t>(g.taps * g.block_packs * kCount) * sizeof(A)};
  return launch(depthwise_gather<T, kCount>, grid, Depthwise(g));
}

Status run(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w, const Epilogue& e,
           const TensorView& result) {
  if (numel(result) == 0) return kOk;
  Depthwise g{};
  g.gather = make_gather(p, adjoint, source, w, e, result);
  Status status = kOk;
  visit_floating(result.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(source, kCount, sizeof(T)) && packs_fit(result, kCount, sizeof(T)) &&
                       volume(p.filter) * kCount * static_cast<int64_t>(sizeof(accumulate_t<T>)) <= kFilterBytes;
    const bool channels_first = result.stride[kC] == 1 && p.c > 1;
    status = packs ? launch_gather<T, kCount>(p, g, true) : launch_gather<T, 1>(p, g, channels_first);
  });
  return status;
}

}  // namespace

const char* conv_depthwise_supports(ConvOp, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_depthwise reads zero padding only";
  if (p.groups != p.c || p.k != p.c || p.c == 0) return "conv_depthwise needs as many groups and filters as channels";
  if (!visit_floating(t.x.dtype, [](auto) {})) return "conv_depthwise has floating point kernels only";
  if (!positions_fit(p)) return "conv_depthwise counts positions in 32 bits";
  if (volume(p.filter) * (t.x.dtype == DType::kFloat64 ? 8 : 4) > kFilterBytes)
    return "conv_depthwise keeps a filter in 40 KB of shared memory";
  return nullptr;
}

Status conv_fprop_depthwise(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                            const TensorView& y) {
  return run(p, false, x, w, e, y);
}

Status conv_dgrad_depthwise(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                            const TensorView& dx) {
  return run(p, true, dy, w, e, dx);
}

}  // namespace convkit::cuda
