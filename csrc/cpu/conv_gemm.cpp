// conv_gemm: fprop and dgrad (transposed convolution) as a packed, register-blocked implicit GEMM.
//
// Computes  out[n,m,o] = act(scale[m] * sum_{c,t} W[m,c,t] in[n,c,o*stride + origin + t*move] + bias[m] + residual)
//           for one gather, one per stride phase (dgrad: conv_gemm_gather.h), or one per part of the result that
//           reads the same taps, where many taps lie in the padding (conv_gemm_parts.h).
// Layout    channels_last results: C = pixels x channels, A = pixels, read in place where their channels are neighbours
//           (conv_gemm_in_place.h), else packed in rows, B = filters, transposed. Others: C = channels x pixels, A =
//           filters as they lie in memory, B = one strided run of an input row per (channel, tap, segment), or of a
//           zero-padded copy of the row, where channels are few (conv_gemm_rows.h). Any strides are right; neighbours
//           in memory along channels (or pixels) are copied as vectors.
// Mapping   one task per (gather, group, up to 8 blocks of pixels, block of channels); it packs both operands of one
//           depth block at a time, multiplies them (gemm_kernel.h), and stores tiles through the epilogue after the
//           last. A small filter is packed once for all pixel blocks of the task. Tasks of several gathers take turns:
//           the phases of dgrad write between each other's results, and read the same pixels.
// Memory    per task: A up to 512 x 256 and B up to 256 x 512 elements (L2), sums of C in the accumulate type.
// Limits    floating dtypes, zero padding.
#include "cpu/conv_gemm_ahead.h"
#include "cpu/conv_gemm_in_place.h"
#include "cpu/conv_gemm_parts.h"
#include "cpu/conv_gemm_rows.h"
#include "cpu/conv_gemm_store.h"
#include "cpu/conv_gemm_weights.h"
#include "cpu/conv_gemm_whole.h"
#include "cpu/conv_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kMostFilter = 192 * 1024;  // elements: 768 KiB of float

// How the work is cut; it follows from the problem alone.
struct Plan {
  bool channels_last;
  bool stages;  // pixels may be staged, to be read in place (conv_gemm_in_place.h)
  int64_t pixels, pixel_block, pixel_tasks;
  int64_t blocks;     // pixel blocks of a task, which share one packed filter
  bool whole_filter;  // all of whose depth blocks are packed at once
  int64_t channel_block, channel_tasks;
  DepthBlock depth;  // size of a full depth block
};

template <typename A>
Plan make_plan(const Gather& g, const TensorView& in, bool channels_last) {
  Plan plan{};
  plan.channels_last = channels_last;
  plan.stages = channels_last && may_stage_pixels<A>(g, in);
  plan.pixels = g.n * volume(g.out);
  const int64_t taps = g.taps > 0 ? g.taps : 1;
  const int64_t depth = g.depth > 0 ? g.depth : 1;
  if (channels_last && depth <= kDepth) {
    const int64_t row = takes_rows_of_taps<A>(g) ? g.tap[2].count : 1;
    const int64_t rows = taps / row, blocks = ceil_div(rows, kDepth / (depth * row));
    plan.depth = {0, depth, 0, ceil_div(rows, blocks) * row};
  } else if (channels_last || taps > kDepth) {
    plan.depth = {0, 1, 0, 1};
    if (channels_last)
      plan.depth.channels = ceil_div(depth, ceil_div(depth, kDepth));
    else
      plan.depth.taps = ceil_div(taps, ceil_div(taps, kDepth));
  } else {
    const int64_t blocks = ceil_div(depth, kDepth / taps);
    plan.depth = {0, ceil_div(depth, blocks), 0, taps};
  }
  // Rows of C come in tiles of kTileRows, columns in vectors. Tiles in place end where a row of the result does.
  const int64_t tile = plan.stages && g.out[2] <= 256 ? g.out[2] : kTileRows;
  const int64_t pixel_unit = channels_last ? tile : kPanel<A>;
  const int64_t channel_unit = channels_last ? kPanel<A> : kTileRows;
  const int64_t most_pixels = 256 / pixel_unit * pixel_unit, most_channels = kMaxPixels / channel_unit * channel_unit;
  plan.pixel_tasks = ceil_div(plan.pixels, most_pixels);
  plan.pixel_block = round_up(ceil_div(plan.pixels, plan.pixel_tasks), pixel_unit);
  plan.pixel_tasks = ceil_div(plan.pixels, plan.pixel_block);
  plan.channel_tasks = ceil_div(g.rows, most_channels);
  // Few pixels: the channels are split too, into at most 8 tasks of at least 2^20 products and 64 channels.
  const int64_t products = plan.pixels * g.rows * depth * taps;
  while (plan.pixel_tasks * g.groups * plan.channel_tasks < 8 && g.rows / plan.channel_tasks >= 128 &&
         products / (plan.pixel_tasks * plan.channel_tasks) >= (1 << 21))
    plan.channel_tasks *= 2;
  plan.channel_block = round_up(ceil_div(g.rows, plan.channel_tasks), channels_last ? channel_unit : 1);
  plan.channel_tasks = ceil_div(g.rows, plan.channel_block);
  // A filter that is one depth block, or whose panels stay in L2 beside pixels read in place, is packed for up to 8
  // blocks of pixels, as long as 32 tasks remain.
  plan.blocks = 1;
  const bool one_block = plan.depth.channels == depth && plan.depth.taps == taps;
  plan.whole_filter = one_block || (plan.stages && depth * taps * plan.channel_block <= kMostFilter);
  if (plan.whole_filter) {
    const int64_t tasks = plan.pixel_tasks * plan.channel_tasks * g.groups;
    plan.blocks = tasks < 64 ? 1 : minimum(tasks / 32, 8);
    plan.pixel_tasks = ceil_div(plan.pixel_tasks, plan.blocks);
  }
  return plan;
}

// What one convolution needs beside its gather.
template <typename T>
struct Operands {
  TensorView in, out;
  Weights<T> weights;
  int64_t weights_group;  // elements between groups
  Epilogue epilogue;
};

// Room for rows of filters to be transposed, or for rows of the input (whose vectors may be read from either side).
template <typename A>
constexpr int64_t kLines =
    kPanel<A> * kDepthPitch > kMostStaged + 2 * kLanes<A> ? kPanel<A> * kDepthPitch : kMostStaged + 2 * kLanes<A>;

// Scratch memory of one task, carved from one allocation.
template <typename A>
struct Scratch {
  A *a, *b, *acc, *lines;
  PixelBlock* block;
  Piece* pieces;
  Slot* slots;
  int64_t *row_out, *row_residual, *panel_slots, *offsets;
  RowTile* tiles;
};

template <typename A>
bool carve(Scratch<A>* s, int64_t rows, int64_t cols, int64_t depth, bool split, bool stages) {
  const int64_t padded = round_up(cols, kPanel<A>), packed = rows * kDepthPitch;
  const size_t sizes[] = {
      static_cast<size_t>(stages && packed < kMostStagedPixels ? kMostStagedPixels : packed) * sizeof(A),
      static_cast<size_t>(padded * depth) * sizeof(A),
      static_cast<size_t>(split ? padded * rows : 0) * sizeof(A),
      static_cast<size_t>(kLines<A>) * sizeof(A),
      sizeof(PixelBlock),
      sizeof(Piece) * kMaxPieces,
      sizeof(Slot) * kMaxPieces,
      sizeof(int64_t) * kMaxPixels,
      sizeof(int64_t) * kMaxPixels,
      sizeof(int64_t) * (kMaxPixels + 1),
      sizeof(int64_t) * kDepth,
      sizeof(RowTile) * kMaxPixels};
  size_t total = 0;
  for (size_t size : sizes) total += (size + 63) / 64 * 64;
  char* at = static_cast<char*>(thread_scratch(0, total));
  if (at == nullptr) return false;
  void* part[sizeof(sizes) / sizeof(sizes[0])];
  for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); ++i) {
    part[i] = at;
    at += (sizes[i] + 63) / 64 * 64;
  }
  *s = {static_cast<A*>(part[0]),       static_cast<A*>(part[1]),          split ? static_cast<A*>(part[2]) : nullptr,
        static_cast<A*>(part[3]),       static_cast<PixelBlock*>(part[4]), static_cast<Piece*>(part[5]),
        static_cast<Slot*>(part[6]),    static_cast<int64_t*>(part[7]),    static_cast<int64_t*>(part[8]),
        static_cast<int64_t*>(part[9]), static_cast<int64_t*>(part[10]),   static_cast<RowTile*>(part[11])};
  return true;
}

// Where the block's pixels and channels go: rows and slots of the result.
template <typename T>
ResultBlock<T> place_result(const Scratch<accumulate_t<T>>& s, const Operands<T>& op, bool channels_last,
                            int64_t channel, int64_t channels) {
  using A = accumulate_t<T>;
  const Epilogue& e = op.epilogue;
  const TensorView& residual = e.residual;
  const auto vector = [&](const void* p) { return p != nullptr ? static_cast<const T*>(p) + channel : nullptr; };
  ResultBlock<T> r{data<T>(op.out) + channel * op.out.stride[kC],
                   residual.data != nullptr ? data<T>(residual) + channel * residual.stride[kC] : nullptr,
                   vector(e.scale),
                   vector(e.bias),
                   channels_last ? op.out.stride[kC] : op.out.stride[kW],
                   channels_last ? residual.stride[kC] : residual.stride[kW],
                   !channels_last,
                   s.row_out,
                   s.row_residual,
                   s.slots,
                   s.panel_slots};
  Slot* slot = s.slots;
  int64_t panels = 0;
  const auto add = [&](int64_t at, int64_t length, int64_t out, int64_t other) {
    for_vectors<A>(at, length, [&](int64_t v, int64_t begin, int64_t end) {
      for (; panels <= v / kPanel<A>; ++panels) s.panel_slots[panels] = slot - s.slots;
      *slot++ = {out + (v - at) * r.step, other + (v - at) * r.residual_step, v, lane_mask(begin, end)};
    });
  };
  if (channels_last) {
    add(0, channels, 0, 0);
    for (int64_t i = 0; i < s.block->segments; ++i) {
      const Segment& g = s.block->segment[i];
      for (int64_t j = 0; j < g.length; ++j) {
        s.row_out[g.at + j] = g.out + j * op.out.stride[kW];
        s.row_residual[g.at + j] = g.residual + j * residual.stride[kW];
      }
    }
  } else {
    for (int64_t i = 0; i < s.block->segments;) {
      const Segment& g = s.block->segment[i];
      int64_t length = g.length;
      for (++i; i < s.block->segments; ++i) {  // rows that follow each other in memory are one
        const Segment& next = s.block->segment[i];
        if (next.out != g.out + length * r.step || next.residual != g.residual + length * r.residual_step) break;
        length += next.length;
      }
      add(g.at, length, g.out, g.residual);
    }
    for (int64_t i = 0; i < channels; ++i) {
      s.row_out[i] = i * op.out.stride[kC];
      s.row_residual[i] = i * residual.stride[kC];
    }
  }
  s.panel_slots[panels] = slot - s.slots;
  return r;
}

// The blocks of one task. False if memory is exhausted.
template <typename T>
bool run_task(const Gather& g, const Plan& plan, const Operands<T>& op, int64_t group, int64_t pixel_task,
              int64_t channel_task) {
  using A = accumulate_t<T>;
  const int64_t row = channel_task * plan.channel_block, channels = minimum(plan.channel_block, g.rows - row);
  const int64_t begin = pixel_task * plan.blocks * plan.pixel_block;
  const int64_t end = minimum(begin + plan.blocks * plan.pixel_block, plan.pixels);
  const int64_t most = minimum(plan.pixel_block, end - begin);
  const bool split = plan.depth.channels < g.depth || plan.depth.taps < g.taps;
  Scratch<A> s;
  const int64_t depth = plan.whole_filter ? g.depth * g.taps : kDepth;  // of what is packed of the filter
  if (!carve(&s, plan.channels_last ? most : channels, plan.channels_last ? channels : most, depth, split, plan.stages))
    return false;
  const bool in_rows = plan.channels_last && lies_in_rows<T>(g, op.in);
  const T* in = data<T>(op.in) + group * g.depth * op.in.stride[kC];
  Weights<T> weights = op.weights;
  weights.data += group * op.weights_group;

  for (int64_t pixel = begin; pixel < end; pixel += plan.pixel_block) {
    const int64_t pixels = minimum(plan.pixel_block, end - pixel);
    const int64_t rows = plan.channels_last ? pixels : channels, cols = plan.channels_last ? channels : pixels;
    make_pixels(s.block, g, op.in, op.out, op.epilogue.residual, pixel, pixels);
    const ResultBlock<T> result = place_result(s, op, plan.channels_last, group * g.rows + row, channels);
    StagedPixels copies{plan.stages ? read_rows(g, *s.block) : ReadRows{}, plan.depth.channels};
    const bool staged = plan.stages && staging_pays(copies, g, *s.block);
    int64_t tiles = in_rows ? tiles_in_rows(s.tiles, g, op.in, *s.block) : 0;
    const auto product = [&](const DepthBlock& d, bool first, bool last) {
      const auto finish = [&](int64_t i, int64_t height, int64_t panel, const A* tile) {
        store_tile(result, op.epilogue, i, height, panel, tile);
        fetch_next_tile(result, i, height, rows, panel, ceil_div(cols, kPanel<A>));
      };
      const bool pack_weights = !plan.whole_filter || pixel == begin;
      if (!plan.channels_last) {
        if (pack_weights) pack_weight_rows(s.a, g, weights, row, channels, d);
        pack_pixel_panels(s.b, s.pieces, s.lines, g, op.in, in, *s.block, d);
        const PanelsOf<A> panels{s.b, d.size() * kPanel<A>, kPanel<A>};
        return multiply(rows, cols, d.size(), s.a, panels, s.acc, first, last, finish, AsksNothing{});
      }
      const int64_t packed = plan.whole_filter ? d.channel * g.taps + d.tap * d.channels : 0;
      A* const filter = s.b + packed * round_up(cols, kPanel<A>);
      if (pack_weights) pack_weight_panels(filter, s.lines, g, weights, row, channels, d);
      const auto multiply_in_place = [&](const A* a, const Runs& runs) {
        multiply_runs(s.tiles, tiles, rows, cols, runs, a, filter, s.acc, first, last, finish);
      };
      if constexpr (std::is_same_v<T, A>) {
        if (in_rows) {
          s.offsets[0] = 0;
          return multiply_in_place(in + d.channel, {s.offsets, 1, d.channels, g.stride[2] * op.in.stride[kW]});
        }
      }
      if (staged) {
        if (d.tap == 0) {
          copies.channels = d.channels;
          stage_pixels(s.a, copies, g, op.in, in + d.channel, *s.block);
          tiles = tiles_of_staged(s.tiles, copies, g, *s.block);
        }
        return multiply_in_place(s.a, staged_runs(s.offsets, copies, g, d, taps_of_run<A>(g)));
      }
      pack_pixel_rows(s.a, g, op.in, in, *s.block, d);
      multiply(rows, cols, d.size(), s.a, PanelsOf<A>{filter, d.size() * kPanel<A>, kPanel<A>}, s.acc, first, last,
               finish, next_pixels(g, op.in, in, d, pixel, pixels, tiles_of(rows)));
    };
    if (g.taps == 0 || g.depth == 0) {  // a phase that no tap reaches
      product({0, 0, 0, 0}, true, true);
      continue;
    }
    for (int64_t c = 0; c < g.depth; c += plan.depth.channels)
      for (int64_t t = 0; t < g.taps; t += plan.depth.taps) {
        const DepthBlock d{c, minimum(plan.depth.channels, g.depth - c), t, minimum(plan.depth.taps, g.taps - t)};
        product(d, c == 0 && t == 0, c + d.channels == g.depth && t + d.taps == g.taps);
      }
  }
  return true;
}

// Channels lie beside each other in the result; a single one decides nothing, then the input tells.
bool is_channels_last(const TensorView& out, const TensorView& in) {
  const TensorView& t = out.size[kC] > 1 ? out : in;
  return t.stride[kC] == 1 && t.size[kC] > 1;
}

// A pointwise convolution sees a row of pixels where rows and planes follow each other in memory.
bool flat(const TensorView& t) {
  return t.data == nullptr || ((t.size[kH] == 1 || t.stride[kH] == t.size[kW] * t.stride[kW]) &&
                               (t.size[kD] == 1 || t.stride[kD] == t.size[kH] * t.size[kW] * t.stride[kW]));
}
void flatten(TensorView* t) {
  t->size[kW] *= t->size[kH] * t->size[kD];
  t->size[kH] = t->size[kD] = 1;
}
template <typename T>
void flatten_pointwise(Gather* g, Operands<T>* op) {
  for (int i = 0; i < kMaxSpatial; ++i)
    if (g->tap[i].count != 1 || g->tap[i].origin != 0 || g->stride[i] != 1 || g->in[i] != g->out[i]) return;
  if (g->out[2] == 1 || !flat(op->in) || !flat(op->out) || !flat(op->epilogue.residual)) return;
  g->in = g->out = {{1, 1, volume(g->in)}};
  flatten(&op->in);
  flatten(&op->out);
  flatten(&op->epilogue.residual);
}

// One gather after the other: the parts of fprop, or of dgrad with stride 1, or the phases of dgrad.
template <typename T>
Status run(const ConvProblem& p, bool adjoint, const TensorView& in, const TensorView& w, const Epilogue& e,
           const TensorView& out) {
  using A = accumulate_t<T>;
  const bool channels_last = is_channels_last(out, in);
  const Spatial phases = adjoint ? dgrad_phases(p) : Spatial{{1, 1, 1}};
  const bool phased = volume(phases) > 1;
  const Gather first = adjoint ? dgrad_gather(p, {{0, 0, 0}}) : fprop_gather(p);
  const Parts parts = cut_gather(first);
  const int64_t gathers = phased ? volume(phases) : part_count(parts);
  const auto gather_at = [&](int64_t i, Spatial* at) {
    if (!phased) return part_of(first, parts, i, at);
    *at = {{i / phases[2] / phases[1], i / phases[2] % phases[1], i % phases[2]}};
    return dgrad_gather(p, *at);
  };
  const auto view = [&](const TensorView& t, const Spatial& at, const Gather& g) {
    return phase_view(t, at, phased ? p.stride : Spatial{{1, 1, 1}}, g.out);
  };
  int64_t tasks = 0;  // of the gather that has the most
  for (int64_t i = 0; i < gathers; ++i) {
    Spatial at;
    const Gather g = gather_at(i, &at);
    const Plan plan = make_plan<A>(g, in, channels_last);
    const int64_t count = g.groups * plan.pixel_tasks * plan.channel_tasks;
    if (count > tasks) tasks = count;
  }
  const int64_t row = w.stride[adjoint ? kC : kN], depth = w.stride[adjoint ? kN : kC];
  bool failed = false;
  parallel_for(gathers * tasks, [&](int64_t i) {
    Spatial at;
    Gather g = gather_at(i % gathers, &at);
    const Plan plan = make_plan<A>(g, in, channels_last);
    const int64_t task = i / gathers, channel_task = task % plan.channel_tasks, rest = task / plan.channel_tasks;
    if (rest >= g.groups * plan.pixel_tasks) return;
    Operands<T> op{in,
                   view(out, at, g),
                   {data<T>(w), row, depth, {w.stride[kD], w.stride[kH], w.stride[kW]}},
                   (adjoint ? g.depth : g.rows) * w.stride[kN],
                   e};
    op.epilogue.residual = view(e.residual, at, g);
    flatten_pointwise(&g, &op);
    if (!run_task(g, plan, op, rest / plan.pixel_tasks, rest % plan.pixel_tasks, channel_task))
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  return failed ? Status{"conv_gemm ran out of memory"} : kOk;
}

}  // namespace

const char* conv_gemm_supports(ConvOp, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_gemm reads zero padding only";
  const bool floating = visit_floating(t.y.dtype, [](auto) {});
  return floating ? nullptr : "conv_gemm has kernels for floating dtypes only";
}

Status conv_fprop_gemm(const ConvProblem& problem, const TensorView& input, const TensorView& filter, const Epilogue& e,
                       const TensorView& y) {
  if (numel(y) == 0) return kOk;
  ConvProblem p = problem;
  TensorView x = input, w = filter;
  flatten_whole(&p, &x, &w);
  Status status = kOk;
  visit_floating(y.dtype, [&](auto t) { status = run<typename decltype(t)::type>(p, false, x, w, e, y); });
  return status;
}

Status conv_dgrad_gemm(const ConvProblem& problem, const TensorView& dy, const TensorView& filter, const Epilogue& e,
                       const TensorView& result) {
  if (numel(result) == 0) return kOk;
  ConvProblem p = problem;
  TensorView dx = result, w = filter;
  const bool per_channel = e.bias != nullptr || e.scale != nullptr || e.residual.data != nullptr;
  if (!per_channel) flatten_whole(&p, &dx, &w);  // its channels are no longer those of the epilogue
  Status status = kOk;
  visit_floating(dx.dtype, [&](auto t) { status = run<typename decltype(t)::type>(p, true, dy, w, e, dx); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
