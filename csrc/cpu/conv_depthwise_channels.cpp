// conv_depthwise, channels: fprop and dgrad of depthwise convolution with vectors along C.
//
// Computes  what conv_depthwise_planar.cpp computes, for tensors whose channels are neighbours.
// Layout    source and result with channel stride 1, all other strides free, or small planes; one filter per channel.
//           The last vector of channels overlaps its neighbour where C is not a multiple of the lanes.
// Mapping   a task is (image, vectors of channels, tile of result rows). A kernel (conv_depthwise_columns.h) computes
//           one or two rows of 7 columns, all vectors of channels. Vectors run inside columns, so that memory is read
//           and written in order; all vectors whose source rows stay in L2. In 3-d a tile runs along D, and is as high
//           as lets the source planes of one position of D stay in L2 for the next.
// Memory    nothing is staged but the filters, tap by tap, and small planes, which are turned in scratch memory. What
//           later calls read first is prefetched: the source rows below, or the planes of the next task. Taps
//           outside the source are skipped: rows by the list of rows inside, columns by checks that only the
//           blocks at the border make.
// Limits    K == C >= lanes, zero padding, floating dtypes.
#include <type_traits>

#include "core/conv_window.h"
#include "cpu/conv_depthwise.h"
#include "cpu/conv_depthwise_columns.h"
#include "cpu/gemm_lanes.h"
#include "cpu/transpose.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

CONVKIT_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The size, a multiple of `unit`, of the fewest about equal shares of `total` that are about `most` long.
CONVKIT_INLINE int64_t even_share(int64_t total, int64_t most, int64_t unit) {
  const int64_t shares = (total + most - 1) / most, size = (total + shares - 1) / shares;
  return (size + unit - 1) / unit * unit;
}

template <typename T>
struct Task {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  static constexpr int lanes = Vector<A>::lanes;

  const ConvProblem& p;
  Axis axis[3];
  const TensorView &source, &w, &result;
  const Epilogue& epilogue;
  SourceRow* source_row;
  int64_t* ahead;
  A* filter;
  int64_t first_vector, last_vector;
  Ahead<T> upcoming;  // of turned planes: those of the next task; no lines: the rows below are what comes next

  int64_t channel(int64_t vector) const { return vector_channel<T>(p.c, vector); }

  // vector x phases x taps x lanes; the taps of a phase ascend in source position.
  void pack() const {
    A* to = filter;
    for (int64_t v = first_vector; v < last_vector; ++v)
      for (int64_t pd = 0; pd < axis[0].phases; ++pd)
        for (int64_t ph = 0; ph < axis[1].phases; ++ph)
          for (int64_t pw = 0; pw < axis[2].phases; ++pw) {
            const Taps d = phase_taps(axis[0], pd), h = phase_taps(axis[1], ph), x = phase_taps(axis[2], pw);
            for (int64_t a = 0; a < d.count; ++a)
              for (int64_t b = 0; b < h.count; ++b, to += x.count * lanes)
                pack_taps(to, channel(v), d.tap + a * d.tap_step, h.tap + b * h.tap_step, x);
          }
  }

  // A row of taps; those that are neighbours in memory, in either order, in blocks of shuffles.
  void pack_taps(A* to, int64_t c, int64_t d, int64_t h, const Taps& x) const {
    const T* from = data<T>(w) + offset(w, c, 0, d, h, x.tap);
    const int64_t step = x.tap_step * w.stride[kW], last = x.count - 1;
    if constexpr (std::is_same_v<T, A>) {
      if (step == 1) return transpose(to, lanes, from, w.stride[kN], lanes, x.count);
      if (step == -1) return transpose(to + last * lanes, -lanes, from - last, w.stride[kN], lanes, x.count);
    }
    for (int64_t s = 0; s < x.count; ++s, to += lanes)
      for (int i = 0; i < lanes; ++i) to[i] = load(from + s * step + i * w.stride[kN]);
  }

  // The source rows of `count` result rows from (jd, jh) of phase (pd, ph) on, and those that the rows below add.
  void find_rows(Block<T>* b, int64_t jd, int64_t pd, int64_t jh, int64_t ph, int count, int64_t columns,
                 int64_t taps) const {
    const Taps td = phase_taps(axis[0], pd), th = phase_taps(axis[1], ph);
    const int64_t step = axis[1].step, tap = th.src_step, y0 = jh * step + th.src;
    const int64_t end = (th.count - 1) * tap + (count - 1) * step, by = count == 1 || step % tap == 0 ? tap : 1;
    b->rows = b->ahead.parts = 0;
    for (int64_t a = 0; a < td.count; ++a) {
      const int64_t z = jd * axis[0].step + td.src + a * td.src_step;
      if (z < 0 || z >= axis[0].source) continue;
      int64_t last = -1;
      for (int64_t y = 0; y <= end; y += by) {
        if (y0 + y < 0 || y0 + y >= axis[1].source) continue;
        SourceRow row{z * source.stride[kD] + (y0 + y) * source.stride[kH], {}};
        bool read = false;
        for (int i = 0; i < kMostRows; ++i) {  // the tap that is y - i * step away, if there is one
          const int64_t from = y - i * step, r = from / tap;
          const bool meets = i < count && from >= 0 && r < th.count && r * tap == from;
          row.filter[i] = meets ? (taps + (a * th.count + r) * columns) * lanes : -1;
          read |= meets;
        }
        if (!read) continue;
        source_row[b->rows++] = row;
        last = row.source;
      }
      for (int64_t i = 1; last >= 0 && i <= count * step; ++i) ahead[b->ahead.parts++] = last + i * source.stride[kH];
    }
  }

  // Prefetches of the rows ahead: a vector's share is that part of them which this block of columns will read, or as
  // many lines. Where a pixel's channels are all the task's, all shares follow each other in memory, whichever vector
  // is computed meanwhile: lines asked for in the order of their addresses arrive much sooner than column by column.
  void look_ahead(Block<T>* b) {
    if (upcoming.lines > 0) {
      b->ahead = upcoming;
      upcoming.at += b->vectors * upcoming.share;
      return;
    }
    const bool dense = b->pitch <= b->vectors * lanes;
    b->ahead.at = b->source + (b->at + b->columns / 2) * b->pitch;
    b->ahead.lines = kColumns * b->step;
    b->ahead.distance = dense ? lanes : b->pitch;
    b->ahead.share = dense ? b->ahead.lines * lanes : lanes;
  }

  // `count` result rows from (jd, jh) of phase (pd, ph) on, at most kMostRows.
  void compute(int64_t n, int64_t jd, int64_t pd, int64_t jh, int64_t ph, int count) {
    const Emitter<T> emitter{epilogue};
    const int64_t d = jd * axis[0].phases + pd, h = jh * axis[1].phases + ph, c = channel(first_vector);
    int64_t taps = taps_before(axis, pd, ph);
    Block<T> b{};
    b.source = data<T>(source) + offset(source, n, c, 0, 0, 0);
    b.filter = filter;
    b.vectors = last_vector - first_vector;
    b.last_channel = channel(last_vector - 1) - c;
    b.filter_pitch = volume(p.filter) * lanes;
    b.row = source_row;
    b.ahead.offset = ahead;
    b.step = axis[2].step;
    b.width = axis[2].source;
    b.pitch = source.stride[kW];
    b.emitter = &emitter;
    b.channel = c;
    b.row_step = result.stride[kH] * axis[1].phases;
    b.column_step = result.stride[kW] * axis[2].phases;
    b.residual_row_step = epilogue.residual.stride[kH] * axis[1].phases;
    b.residual_column_step = epilogue.residual.stride[kW] * axis[2].phases;
    b.plain = epilogue.residual.data == nullptr && epilogue.activation == Activation::kIdentity;
    for (int64_t pw = 0; pw < axis[2].phases; ++pw) {
      const Taps tw = phase_taps(axis[2], pw);
      const int64_t length = phase_length(axis[2], pw);
      const int64_t reach = (kColumns - 1) * axis[2].step + (tw.count - 1) * tw.src_step;
      const ColumnKernels<T> kernels = choose_kernels<T>(tw.count, tw.src_step, axis[2].step);
      b.columns = tw.count;
      b.src_step = tw.src_step;
      for (int i = 0; i < count; i += kernels.rows) {
        const bool full = i + kernels.rows <= count;
        find_rows(&b, jd, pd, jh + i, ph, full ? kernels.rows : 1, tw.count, taps);
        for (int64_t j = 0; j < length; j += kColumns) {
          b.at = j * axis[2].step + tw.src;
          b.count = length - j < kColumns ? static_cast<int>(length - j) : kColumns;
          const int64_t at[3] = {d, h + i * axis[1].phases, j * axis[2].phases + pw};
          b.to = data<T>(result) + offset(result, n, c, at[0], at[1], at[2]);
          b.residual = residual_at<T>(epilogue, n, c, at[0], at[1], at[2]);
          look_ahead(&b);
          kernels.of[full][b.at < 0 || b.at + reach >= b.width](b);
        }
      }
      taps += phase_taps(axis[0], pd).count * phase_taps(axis[1], ph).count * tw.count;
    }
  }

  // The rows [from, end) of every (d, h) phase of image n.
  void compute_tile(int64_t n, const int64_t (&from)[2], const int64_t (&end)[2]) {
    for (int64_t jd = from[0]; jd < end[0]; ++jd)
      for (int64_t pd = 0; pd < axis[0].phases && jd < phase_length(axis[0], pd); ++pd)
        for (int64_t jh = from[1]; jh < end[1]; jh += kMostRows)
          for (int64_t ph = 0; ph < axis[1].phases; ++ph) {
            const int64_t left = least(end[1], phase_length(axis[1], ph)) - jh;
            if (left > 0) compute(n, jd, pd, jh, ph, static_cast<int>(least(left, kMostRows)));
          }
  }
};

// The planes that follow channels [c, c + count) of image n in memory, if they do, for `shares` calls to prefetch.
template <typename T>
Ahead<T> planes_after(const TensorView& t, int64_t n, int64_t c, int64_t count, int64_t shares) {
  static constexpr int64_t kHere = 0;
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t plane = t.size[kD] * t.size[kH] * t.size[kW];
  const PlaneRows rows = plane_rows(t);
  if (rows.step != 1 || rows.count != 1 || t.stride[kC] != plane) return {};
  const int64_t lines = plane * count / (line * shares) + 1;
  return {data<T>(t) + offset(t, n, c + count, 0, 0, 0), &kHere, 1, lines, line, lines * line};
}

template <typename T>
Status run(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w, const Epilogue& e,
           const TensorView& result) {
  using A = accumulate_t<T>;
  const bool turned = !has_channel_vectors(source) || !has_channel_vectors(result);
  constexpr int lanes = Vector<A>::lanes;
  const Axis axis[3] = {make_axis(p, 0, adjoint), make_axis(p, 1, adjoint), make_axis(p, 2, adjoint)};
  const int64_t vectors = (p.c + lanes - 1) / lanes;
  // The source rows of one result row, read again for the next, should stay in L2.
  const int64_t row_bytes = axis[2].source * p.filter[0] * p.filter[1] * kVectorBytes + 1;
  const int64_t positions = volume(p.in) + volume(p.out);
  const int64_t turned_vectors = least(8, 200 * 1024 / (positions * kVectorBytes));
  const VectorBlocks blocks = vector_blocks(vectors, turned ? turned_vectors : 512 * 1024 / row_bytes);
  // A task is a tile of rows of one image: `band` (d, h) positions of every phase. In 3-d the source rows of its
  // results at one d should stay in L2, since the next d reads most of them again.
  const int64_t depth = phase_length(axis[0], 0), height = phase_length(axis[1], 0);
  const int64_t plane_bytes = axis[2].source * axis[1].step * blocks.most * kVectorBytes * p.filter[0];
  const int64_t fitting = p.filter[0] > 1 ? 1024 * 1024 / plane_bytes + 1 : height;
  // Tasks that are long beside packing their filters, yet many.
  const int64_t work = axis[2].result * axis[1].phases * volume(p.filter) * lanes * blocks.most + 1;
  int64_t wanted = work * height * depth * blocks.count * p.n / 16;
  wanted = wanted < 131072 ? 131072 : least(wanted, 4194304);
  int64_t band[2] = {depth, height};
  if (!turned) {
    band[1] = even_share(height, least(wanted / work + 1, fitting), kMostRows);
    band[0] = least(depth, wanted / (work * band[1]) + 1);
  }
  const int64_t bands[2] = {(depth + band[0] - 1) / band[0], (height + band[1] - 1) / band[1]};
  const int64_t calls = depth * ((height + kMostRows - 1) / kMostRows) * ((axis[2].result + kColumns - 1) / kColumns);
  const size_t filter = static_cast<size_t>(blocks.most * volume(p.filter) * lanes) * sizeof(A);
  const size_t source_rows = static_cast<size_t>(kMostRows * p.filter[0] * p.filter[1]) * sizeof(SourceRow);
  const size_t ahead = static_cast<size_t>(p.filter[0] * kMostRows * axis[1].step) * sizeof(int64_t);
  bool exhausted = false;
  parallel_for(p.n * blocks.count * bands[0] * bands[1], [&](int64_t i) {
    const int64_t block = i / (bands[0] * bands[1]) % blocks.count, n = i / (bands[0] * bands[1]) / blocks.count;
    const int64_t first[2] = {i % bands[0] * band[0], i / bands[0] % bands[1] * band[1]};
    char* scratch = static_cast<char*>(thread_scratch(0, filter + source_rows + ahead));
    if (scratch == nullptr) return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
    TensorView from = source, to = result;
    const int64_t c = vector_channel<T>(p.c, blocks.begin(block));
    const int64_t count = vector_channel<T>(p.c, blocks.begin(block + 1) - 1) + lanes - c;
    T* turned_result = nullptr;
    if (turned) {
      T* planes = static_cast<T*>(thread_scratch(1, static_cast<size_t>(positions * count) * sizeof(T)));
      if (planes == nullptr) return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
      planes_to_channels<T>(source, n, c, count, planes);
      from = block_view<T>(source, planes, c, count);
      turned_result = planes + source.size[kD] * source.size[kH] * source.size[kW] * count;
      to = block_view<T>(result, turned_result, c, count);
    }
    Task<T> task{p,
                 {axis[0], axis[1], axis[2]},
                 from,
                 w,
                 to,
                 e,
                 reinterpret_cast<SourceRow*>(scratch + filter),
                 reinterpret_cast<int64_t*>(scratch + filter + source_rows),
                 reinterpret_cast<A*>(scratch),
                 blocks.begin(block),
                 blocks.begin(block + 1),
                 turned ? planes_after<T>(source, n, c, count, calls * blocks.most) : Ahead<T>{}};
    task.pack();
    const int64_t end[2] = {least(first[0] + band[0], depth), least(first[1] + band[1], height)};
    task.compute_tile(n, first, end);
    if (turned) channels_to_planes<T>(turned_result, result, n, c, count);
  });
  return exhausted ? Status{"conv_depthwise ran out of memory"} : kOk;
}

}  // namespace

Status depthwise_channels(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w,
                          const Epilogue& e, const TensorView& result) {
  Status status{"conv_depthwise has no kernel for this dtype"};
  visit_floating(result.dtype,
                 [&](auto t) { status = run<typename decltype(t)::type>(p, adjoint, source, w, e, result); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
