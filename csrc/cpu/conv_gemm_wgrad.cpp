// conv_gemm's wgrad: the filter's gradient as a packed, register-blocked implicit GEMM.
//
// Computes  dw[k,c,t] = sum_{n,o} dy[n,k,o] x[n,c,o*stride - pad + t*dilation]
// Layout    The sum runs over pixels, so one operand has to be transposed: always dy, which is smaller than the
//           gathered x by the number of taps. channels_last x: C = k x (t,c), A = dy transposed, B = pixel rows
//           of x. Others: C = (c,t) x k, A = one row of pixels per (c,t), B = dy transposed.
// Mapping   one task per (part of the pixels, group, block of (c,t), block of k), over chunks of kDepth pixels.
//           Few blocks: the pixels are split too, by a rule that knows the problem only; parts are added in order.
// Memory    per task: up to 256 x 256 elements each of A, B and C (L2).
// Limits    floating dtypes, zero padding.
#include "cpu/conv_gemm_pixels.h"
#include "cpu/conv_gemm_whole.h"
#include "cpu/conv_kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

struct Plan {
  bool channels_last;
  DepthBlock columns;  // size of a full block of (c, t)
  int64_t channel_blocks, tap_blocks;
  int64_t k_block, k_blocks;
  int64_t pixels, part, parts;  // a part of the sum, in pixels: a multiple of kDepth
};

template <typename A>
Plan make_plan(const Gather& g, bool channels_last) {
  Plan plan{};
  plan.channels_last = channels_last;
  plan.columns = {0, 1, 0, 1};
  if (channels_last && g.depth < kDepth) {
    plan.columns.channels = g.depth;
    plan.columns.taps = ceil_div(g.taps, ceil_div(g.taps, kDepth / g.depth));
  } else if (channels_last) {
    plan.columns.channels = kDepth / kPanel<A> * kPanel<A>;
  } else if (g.taps < kDepth) {
    plan.columns.taps = g.taps;
    plan.columns.channels = ceil_div(g.depth, ceil_div(g.depth, kDepth / g.taps));
  } else {
    plan.columns.taps = kDepth;
  }
  plan.channel_blocks = ceil_div(g.depth, plan.columns.channels);
  plan.tap_blocks = ceil_div(g.taps, plan.columns.taps);
  plan.k_blocks = ceil_div(g.rows, kDepth);
  plan.k_block = ceil_div(g.rows, plan.k_blocks);
  plan.pixels = g.n * volume(g.out);
  // 8 tasks at least, if each has 2^20 products.
  const int64_t blocks = g.groups * plan.channel_blocks * plan.tap_blocks * plan.k_blocks;
  const int64_t worth = g.groups * g.rows * g.depth * g.taps * plan.pixels >> 20;
  const int64_t chunks = ceil_div(plan.pixels, kDepth);
  int64_t parts = ceil_div(minimum(worth, 8), blocks);
  if (parts > chunks) parts = chunks;
  if (parts < 1) parts = 1;
  plan.part = ceil_div(chunks, parts) * kDepth;
  plan.parts = ceil_div(plan.pixels, plan.part);
  return plan;
}

template <typename T>
struct Operands {
  TensorView dy, x, dw;
};

// Calls f(at, offset, length) for the runs of neighbouring pixels of dy in the block.
template <typename F>
CONVKIT_INLINE void for_dy_runs(const PixelBlock& block, int64_t step, const F& f) {
  for (int64_t i = 0; i < block.segments;) {
    const Segment& s = block.segment[i];
    int64_t length = s.length;
    for (++i; i < block.segments && block.segment[i].out == s.out + length * step; ++i)
      length += block.segment[i].length;
    f(s.at, s.out, length);
  }
}

// dst[k][pixel], rows of kDepthPitch, for channels [0, rows) behind `dy`; `lines` holds the other order.
template <typename T>
void pack_dy_rows(accumulate_t<T>* dst, accumulate_t<T>* lines, const TensorView& view, const T* dy,
                  const PixelBlock& block, int64_t rows) {
  const int64_t step = view.stride[kW], channel = view.stride[kC];
  if (channel == 1 && step != 1) {
    for_dy_runs(block, step, [&](int64_t at, int64_t from, int64_t length) {
      for (int64_t j = 0; j < length; ++j) copy_run(lines + (at + j) * kDepthPitch, dy + from + j * step, 1, rows);
    });
    transpose(dst, kDepthPitch, lines, kDepthPitch, block.count, rows);
    return;
  }
  for_dy_runs(block, step, [&](int64_t at, int64_t from, int64_t length) {
    for (int64_t i = 0; i < rows; ++i) copy_run(dst + i * kDepthPitch + at, dy + from + i * channel, step, length);
  });
}

// dst[panel][pixel][k]: panels of B, columns up to a full vector zero.
template <typename T>
void pack_dy_panels(accumulate_t<T>* dst, accumulate_t<T>* lines, const TensorView& view, const T* dy,
                    const PixelBlock& block, int64_t cols) {
  using A = accumulate_t<T>;
  constexpr int64_t panel = kPanel<A>;
  const int64_t step = view.stride[kW], channel = view.stride[kC];
  for (int64_t j = 0; j < cols; j += panel, dst += block.count * panel, dy += panel * channel) {
    const int64_t width = minimum(panel, cols - j), filled = round_up(width, kLanes<A>);
    if (channel == 1) {
      for_dy_runs(block, step, [&](int64_t at, int64_t from, int64_t length) {
        for (int64_t i = 0; i < length; ++i) copy_run(dst + (at + i) * panel, dy + from + i * step, 1, width);
      });
    } else {
      for_dy_runs(block, step, [&](int64_t at, int64_t from, int64_t length) {
        for (int64_t i = 0; i < width; ++i)
          copy_run(lines + i * kDepthPitch + at, dy + from + i * channel, step, length);
      });
      transpose(dst, panel, lines, kDepthPitch, width, block.count);
    }
    if (filled > width)
      for (int64_t at = 0; at < block.count; ++at)
        for (int64_t i = width; i < filled; ++i) dst[at * panel + i] = A(0);
  }
}

// Stores the gradient of one filter (dw points to it) from a line of its block's (c, t), in the plan's order.
template <typename T>
void store_line(T* dw, const TensorView& view, const Gather& g, const Plan& plan, const DepthBlock& d,
                const accumulate_t<T>* line) {
  const int64_t channel = view.stride[kC];
  for (int64_t t = 0; t < d.taps; ++t) {
    const Tap tap = tap_at(g, d.tap + t);
    T* to = dw + d.channel * channel + tap.filter[0] * view.stride[kD] + tap.filter[1] * view.stride[kH] +
            tap.filter[2] * view.stride[kW];
    if (plan.channels_last) {
      for (int64_t c = 0; c < d.channels; ++c) store(to + c * channel, line[t * d.channels + c]);
    } else {
      for (int64_t c = 0; c < d.channels; ++c) store(to + c * channel, line[c * d.taps + t]);
    }
  }
}

// Whether a line lies in memory as it is.
bool line_contiguous(const TensorView& dw, const Gather& g, const Plan& plan, const DepthBlock& d) {
  const int64_t innermost = plan.channels_last ? g.depth : 1;
  int64_t expected = innermost;
  for (int i = kMaxSpatial - 1; i >= 0; --i) {
    if (g.tap[i].count > 1 && dw.stride[kD + i] != expected) return false;
    expected *= g.tap[i].count;
  }
  if (plan.channels_last) return (d.channels == g.depth || d.taps == 1) && (dw.stride[kC] == 1 || g.depth == 1);
  return d.channels == 1 || (dw.stride[kC] == g.taps && d.taps == g.taps);
}

// One block of dw, from its finished C.
template <typename T>
void store_block(const Operands<T>& op, const Gather& g, const Plan& plan, int64_t k, int64_t filters,
                 const DepthBlock& d, const accumulate_t<T>* acc, accumulate_t<T>* lines) {
  using A = accumulate_t<T>;
  constexpr int64_t panel = kPanel<A>;
  const TensorView& dw = op.dw;
  const Tap first = tap_at(g, d.tap);
  const int64_t start = d.channel * dw.stride[kC] + first.filter[0] * dw.stride[kD] + first.filter[1] * dw.stride[kH] +
                        first.filter[2] * dw.stride[kW];
  const bool contiguous = line_contiguous(dw, g, plan, d);
  const auto finish = [&](int64_t i, const A* line) {
    T* filter = data<T>(dw) + (k + i) * dw.stride[kN];
    if (!contiguous) return store_line(filter, dw, g, plan, d, line);
    for (int64_t j = 0; j < d.size(); ++j) store(filter + start + j, line[j]);
  };
  if (plan.channels_last) {
    for (int64_t i = 0; i < filters; ++i) {
      for (int64_t j = 0; j < d.size(); j += panel)
        copy_run(lines + j, acc + (j / panel * filters + i) * panel, 1, minimum(panel, d.size() - j));
      finish(i, lines);
    }
  } else {
    for (int64_t j = 0; j < filters; j += panel) {
      const int64_t width = minimum(panel, filters - j);
      transpose(lines, kDepthPitch, acc + j * d.size(), panel, d.size(), width);
      for (int64_t i = 0; i < width; ++i) finish(j + i, lines + i * kDepthPitch);
    }
  }
}

// Adds one part of the sum over pixels into acc.
template <typename T>
void sum_part(const Operands<T>& op, const Gather& g, const Plan& plan, int64_t part, int64_t group, int64_t k,
              int64_t filters, const DepthBlock& d, PixelBlock* block, Piece* pieces, accumulate_t<T>* a,
              accumulate_t<T>* b, accumulate_t<T>* lines, accumulate_t<T>* acc) {
  using A = accumulate_t<T>;
  const T* x = data<T>(op.x) + group * g.depth * op.x.stride[kC];
  const T* dy = data<T>(op.dy) + k * op.dy.stride[kC];
  const int64_t begin = part * plan.part, end = minimum(begin + plan.part, plan.pixels);
  const auto keep = [](int64_t, int64_t, int64_t, const A*) {};
  for (int64_t pixel = begin; pixel < end; pixel += kDepth) {
    make_pixels(block, g, op.x, op.dy, TensorView{}, pixel, minimum(kDepth, end - pixel));
    if (plan.channels_last) {
      pack_dy_rows(a, lines, op.dy, dy, *block, filters);
      pack_pixel_rows(b, g, op.x, x, *block, d);
      for (int64_t i = 0, to = round_up(d.size(), kLanes<A>); to > d.size() && i < block->count; ++i)
        for (int64_t j = d.size(); j < to; ++j) b[i * kDepthPitch + j] = A(0);
      multiply(filters, d.size(), block->count, a, PanelsOf<A>{b, kPanel<A>, kDepthPitch}, acc, pixel == begin, false,
               keep, AsksNothing{});
    } else {
      const int64_t step = g.stride[2] * op.x.stride[kW];
      for (int64_t t = 0; t < d.taps; ++t) {
        const int64_t count = make_pieces<A>(pieces, g, op.x, *block, d.tap + t, kPanel<A>);
        for (int64_t c = 0; c < d.channels; ++c)
          copy_pieces(a + (c * d.taps + t) * kDepthPitch, x + (d.channel + c) * op.x.stride[kC], pieces, count, step,
                      op.x.stride[kC]);
      }
      pack_dy_panels(b, lines, op.dy, dy, *block, filters);
      multiply(d.size(), filters, block->count, a, PanelsOf<A>{b, block->count * kPanel<A>, kPanel<A>}, acc,
               pixel == begin, false, keep, AsksNothing{});
    }
  }
}

template <typename T>
Status wgrad(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  using A = accumulate_t<T>;
  const Gather g = fprop_gather(p);
  const Plan plan = make_plan<A>(g, x.stride[kC] == 1 && x.size[kC] > 1);
  const Operands<T> op{dy, x, dw};
  const int64_t column_blocks = plan.channel_blocks * plan.tap_blocks;
  const int64_t blocks = g.groups * column_blocks * plan.k_blocks;
  // Both orders of C fit: whole panels on either side.
  constexpr int64_t matrix = kDepth * kDepthPitch;
  A* shared = nullptr;
  if (plan.parts > 1) {
    shared = static_cast<A*>(thread_scratch(1, static_cast<size_t>(plan.parts * blocks * matrix) * sizeof(A)));
    if (shared == nullptr) return {"conv_gemm ran out of memory"};
  }
  bool failed = false;
  const auto locate = [&](int64_t number, int64_t* group, int64_t* k, int64_t* filters, DepthBlock* d) {
    const int64_t k_block = number % plan.k_blocks, column = number / plan.k_blocks % column_blocks;
    *group = number / plan.k_blocks / column_blocks;
    *k = *group * g.rows + k_block * plan.k_block;
    *filters = minimum(plan.k_block, g.rows - k_block * plan.k_block);
    const int64_t channel = column / plan.tap_blocks * plan.columns.channels;
    const int64_t tap = column % plan.tap_blocks * plan.columns.taps;
    *d = {channel, minimum(plan.columns.channels, g.depth - channel), tap, minimum(plan.columns.taps, g.taps - tap)};
  };
  parallel_for(plan.parts * blocks, [&](int64_t task) {
    const size_t matrix_bytes = static_cast<size_t>(matrix) * sizeof(A);
    char* scratch = static_cast<char*>(
        thread_scratch(0, 4 * matrix_bytes + sizeof(PixelBlock) + sizeof(Piece) * static_cast<size_t>(kMaxPieces)));
    if (scratch == nullptr) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    A* a = reinterpret_cast<A*>(scratch);
    A *b = a + matrix, *lines = b + matrix, *acc = shared != nullptr ? shared + task * matrix : lines + matrix;
    PixelBlock* block = reinterpret_cast<PixelBlock*>(scratch + 4 * matrix_bytes);
    Piece* pieces = reinterpret_cast<Piece*>(block + 1);
    int64_t group, k, filters;
    DepthBlock d;
    locate(task % blocks, &group, &k, &filters, &d);
    sum_part(op, g, plan, task / blocks, group, k, filters, d, block, pieces, a, b, lines, acc);
    if (shared == nullptr) store_block(op, g, plan, k, filters, d, acc, lines);
  });
  if (failed) return {"conv_gemm ran out of memory"};
  if (shared == nullptr) return kOk;
  parallel_for(blocks, [&](int64_t number) {
    A* lines = static_cast<A*>(thread_scratch(0, static_cast<size_t>(matrix) * sizeof(A)));
    if (lines == nullptr) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    int64_t group, k, filters;
    DepthBlock d;
    locate(number, &group, &k, &filters, &d);
    const int64_t rows = plan.channels_last ? filters : d.size(), cols = plan.channels_last ? d.size() : filters;
    A* sum = shared + number * matrix;
    for (int64_t part = 1; part < plan.parts; ++part) {
      const A* other = shared + (part * blocks + number) * matrix;
      for (int64_t i = 0; i < rows * round_up(cols, kPanel<A>); ++i) sum[i] += other[i];
    }
    store_block(op, g, plan, k, filters, d, sum, lines);
  });
  return failed ? Status{"conv_gemm ran out of memory"} : kOk;
}

// No pixel, no gradient.
template <typename T>
void clear(const TensorView& dw) {
  for (int64_t k = 0; k < dw.size[kN]; ++k)
    for (int64_t c = 0; c < dw.size[kC]; ++c)
      for (int64_t d = 0; d < dw.size[kD]; ++d)
        for (int64_t h = 0; h < dw.size[kH]; ++h)
          for (int64_t w = 0; w < dw.size[kW]; ++w) store(data<T>(dw) + offset(dw, k, c, d, h, w), accumulate_t<T>(0));
}

}  // namespace

Status conv_wgrad_gemm(const ConvProblem& problem, const TensorView& dy, const TensorView& input,
                       const TensorView& result) {
  if (numel(result) == 0) return kOk;
  ConvProblem p = problem;
  TensorView x = input, dw = result;
  flatten_whole(&p, &x, &dw);
  Status status = kOk;
  visit_floating(dw.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (numel(dy) == 0) return clear<T>(dw);
    status = wgrad<T>(p, dy, x, dw);
  });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
