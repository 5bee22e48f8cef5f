// conv_depthwise, channels: fprop and dgrad of depthwise convolution with vectors along C.
//
// Computes  what conv_depthwise_planar.cpp computes, for tensors whose channels are neighbours.
// Layout    source and result with channel stride 1, all other strides free, or small planes; one filter per channel.
//           The last vector of channels overlaps its neighbour where C is not a multiple of the lanes.
// Mapping   a task is (image, vectors of channels, band of result rows). A kernel computes one vector of channels
//           in 7 columns of a row: each loaded source vector serves every column whose window holds it. Vectors run
//           inside columns, so that memory is read and written in order; all vectors whose source rows stay in L2.
// Memory    nothing is staged but the filters, tap by tap, and small planes, which are turned in scratch memory. The
//           source lines that the next row reads first are prefetched. Taps outside the source are skipped: rows
//           by the list of rows inside, columns by checks that only the blocks at the border make.
// Limits    K == C >= lanes, zero padding, floating dtypes.
#include "cpu/conv_depthwise.h"
#include "cpu/conv_emit.h"
#include "cpu/conv_window.h"
#include "cpu/transpose.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kColumns = 7;  // divides the widths of most networks

// One vector of channels of one result row, and one phase of its columns.
template <typename T>
struct Row {
  const T* source;  // position (0, 0, 0)
  const accumulate_t<T>* filter;
  int64_t rows;                                  // filter rows whose source row exists
  const int64_t *source_offset, *filter_offset;  // of each
  int64_t columns, src_step, step;               // tap columns, their distance, the results' distance
  int64_t width, pitch;                          // source columns, and their distance in memory
};

// Source column `at` exists. Unsigned: one comparison for both ends.
template <typename T>
CONVKIT_INLINE bool inside(const Row<T>& row, int64_t at) {
  return static_cast<uint64_t>(at) < static_cast<uint64_t>(row.width);
}

// Adds kTaps neighbouring taps of one filter row; `at`: source column of the first of them for the first result.
template <typename T, int kTaps, int kStep, bool kBorder>
CONVKIT_INLINE void slide(const Row<T>& row, const T* source, const accumulate_t<T>* filter, int64_t at,
                          vector_t<accumulate_t<T>>* acc) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  source += at * row.pitch;
  V tap[kTaps];
#pragma GCC unroll 16
  for (int s = 0; s < kTaps; ++s) tap[s] = in_register(load_vector<A>(filter + s * Vector<A>::lanes));
#pragma GCC unroll 32
  for (int u = 0; u < (kColumns - 1) * kStep + kTaps; ++u) {
    if (kBorder && !inside(row, at + u)) continue;
    const V x = in_register(load_vector<T>(source + u * row.pitch));
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      const int s = u - j * kStep;
      if (s >= 0 && s < kTaps) acc[j] += tap[s] * x;
    }
  }
}

// `at`: source column of the first tap of the first result, here and below.
template <typename T, int kTaps, int kStep, bool kBorder>
void fixed_columns(const Row<T>& row, int64_t at, vector_t<accumulate_t<T>>* out) {
  using V = vector_t<accumulate_t<T>>;
  V acc[kColumns] = {};
  for (int64_t i = 0; i < row.rows; ++i)
    slide<T, kTaps, kStep, kBorder>(row, row.source + row.source_offset[i], row.filter + row.filter_offset[i], at, acc);
#pragma GCC unroll 16
  for (int j = 0; j < kColumns; ++j) out[j] = acc[j];
}

// Long filter rows, eight taps at a time.
template <typename T, bool kBorder>
void long_columns(const Row<T>& row, int64_t at, vector_t<accumulate_t<T>>* out) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int kChunk = 8;
  V acc[kColumns] = {};
  for (int64_t i = 0; i < row.rows; ++i) {
    const T* source = row.source + row.source_offset[i];
    const A* filter = row.filter + row.filter_offset[i];
    int64_t s = 0;
    for (; s + kChunk <= row.columns; s += kChunk)
      slide<T, kChunk, 1, kBorder>(row, source, filter + s * Vector<A>::lanes, at + s, acc);
    for (; s < row.columns; ++s) slide<T, 1, 1, kBorder>(row, source, filter + s * Vector<A>::lanes, at + s, acc);
  }
#pragma GCC unroll 16
  for (int j = 0; j < kColumns; ++j) out[j] = acc[j];
}

template <typename T, bool kBorder>
void any_columns(const Row<T>& row, int64_t at, vector_t<accumulate_t<T>>* out) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  V acc[kColumns] = {};
  for (int64_t i = 0; i < row.rows; ++i) {
    const T* source = row.source + row.source_offset[i];
    const A* filter = row.filter + row.filter_offset[i];
    for (int64_t s = 0; s < row.columns; ++s) {
      const V tap = load_vector<A>(filter + s * Vector<A>::lanes);
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        const int64_t from = at + j * row.step + s * row.src_step;
        if (!kBorder || inside(row, from)) acc[j] += tap * load_vector<T>(source + from * row.pitch);
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kColumns; ++j) out[j] = acc[j];
}

// The lines of one vector that the next result row reads first: below the last row of each plane. A prefetch past
// the end is harmless. `tap_step`: between the source rows of neighbouring taps.
template <typename T>
CONVKIT_INLINE void prefetch_below(const Row<T>& row, int64_t at, int64_t row_step, int64_t row_stride,
                                   int64_t tap_step) {
  const char* source = reinterpret_cast<const char*>(row.source);
  for (int64_t i = 0; i < row.rows; ++i) {
    if (i + 1 < row.rows && row.source_offset[i + 1] == row.source_offset[i] + tap_step) continue;
    int64_t from = row.source_offset[i] + at * row.pitch;
    for (int64_t r = 0; r < row_step; ++r) {
      from += row_stride;
      for (int64_t u = 0; u < kColumns * row.step; ++u)
        __builtin_prefetch(source + (from + u * row.pitch) * static_cast<int64_t>(sizeof(T)));
    }
  }
}

template <typename T>
using ColumnKernel = void (*)(const Row<T>&, int64_t, vector_t<accumulate_t<T>>*);
template <typename T>
struct ColumnKernels {
  ColumnKernel<T> interior, border;
};

template <typename T, int kTaps, int kStep>
CONVKIT_INLINE ColumnKernels<T> fixed_kernels() {
  return {fixed_columns<T, kTaps, kStep, false>, fixed_columns<T, kTaps, kStep, true>};
}

template <typename T>
ColumnKernels<T> choose_kernels(int64_t taps, int64_t src_step, int64_t step) {
  if (src_step == 1 && step == 1) {
    switch (taps) {
      case 1: return fixed_kernels<T, 1, 1>();
      case 2: return fixed_kernels<T, 2, 1>();
      case 3: return fixed_kernels<T, 3, 1>();
      case 4: return fixed_kernels<T, 4, 1>();
      case 5: return fixed_kernels<T, 5, 1>();
      case 7: return fixed_kernels<T, 7, 1>();
      default: return {long_columns<T, false>, long_columns<T, true>};
    }
  }
  if (src_step == 1 && step == 2) {
    switch (taps) {
      case 3: return fixed_kernels<T, 3, 2>();
      case 5: return fixed_kernels<T, 5, 2>();
      case 7: return fixed_kernels<T, 7, 2>();
      default: break;
    }
  }
  return {any_columns<T, false>, any_columns<T, true>};
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
  int64_t *source_offset, *filter_offset;
  A* filter;
  int64_t first_vector, last_vector;

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
              for (int64_t b = 0; b < h.count; ++b)
                for (int64_t s = 0; s < x.count; ++s, to += lanes) {
                  const T* from = data<T>(w) + offset(w, channel(v), 0, d.tap + a * d.tap_step, h.tap + b * h.tap_step,
                                                      x.tap + s * x.tap_step);
                  for (int i = 0; i < lanes; ++i) to[i] = load(from + i * w.stride[kN]);
                }
          }
  }

  // Result row (d, h) of image n; `group` is where the taps of its (d, h) phase start.
  void compute(int64_t n, int64_t d, int64_t h) const {
    const int64_t pd = d % axis[0].phases, ph = h % axis[1].phases, jd = d / axis[0].phases, jh = h / axis[1].phases;
    const Taps td = phase_taps(axis[0], pd), th = phase_taps(axis[1], ph);
    int64_t group = 0;  // taps of the phases before this one
    for (int64_t i = 0; i < pd; ++i) group += phase_taps(axis[0], i).count * axis[1].kernel;
    for (int64_t i = 0; i < ph; ++i) group += td.count * phase_taps(axis[1], i).count;
    group *= axis[2].kernel;
    const Emitter<T> emitter{epilogue};
    for (int64_t pw = 0; pw < axis[2].phases; ++pw) {
      const Taps tw = phase_taps(axis[2], pw);
      const int64_t length = phase_length(axis[2], pw);
      Row<T> row{};
      row.source_offset = source_offset;
      row.filter_offset = filter_offset;
      for (int64_t a = 0; a < td.count; ++a)
        for (int64_t b = 0; b < th.count; ++b) {
          const int64_t z = jd * axis[0].step + td.src + a * td.src_step;
          const int64_t y = jh * axis[1].step + th.src + b * th.src_step;
          if (z < 0 || z >= axis[0].source || y < 0 || y >= axis[1].source) continue;
          source_offset[row.rows] = z * source.stride[kD] + y * source.stride[kH];
          filter_offset[row.rows++] = (group + (a * th.count + b) * tw.count) * lanes;
        }
      row.columns = tw.count;
      row.src_step = tw.src_step;
      row.step = axis[2].step;
      row.width = axis[2].source;
      row.pitch = source.stride[kW];
      const ColumnKernels<T> kernels = choose_kernels<T>(tw.count, tw.src_step, axis[2].step);
      const int64_t reach = (kColumns - 1) * axis[2].step + (tw.count - 1) * tw.src_step;
      const int64_t to_step = result.stride[kW] * axis[2].phases;
      const int64_t residual_step = epilogue.residual.stride[kW] * axis[2].phases;
      // Channels inside columns: what is read and written then runs through memory in order.
      for (int64_t j = 0; j < length; j += kColumns) {
        const int64_t at = j * axis[2].step + tw.src;
        const ColumnKernel<T> kernel = at >= 0 && at + reach < row.width ? kernels.interior : kernels.border;
        const int count = length - j < kColumns ? static_cast<int>(length - j) : kColumns;
        for (int64_t v = first_vector; v < last_vector; ++v) {
          const int64_t c = channel(v);
          row.source = data<T>(source) + offset(source, n, c, 0, 0, 0);
          row.filter = filter + (v - first_vector) * volume(p.filter) * lanes;
          prefetch_below(row, at + tw.count / 2, axis[1].step, source.stride[kH], th.src_step * source.stride[kH]);
          V out[kColumns];
          kernel(row, at, out);
          const V scale = emitter.scales_of(c, lanes), bias = emitter.biases_of(c, lanes);
          T* to = data<T>(result) + offset(result, n, c, d, h, pw) + j * to_step;
          const T* residual = residual_at<T>(epilogue, n, c, d, h, pw);
          if (residual == nullptr) emitter.emit_rows(out, count, scale, bias, to, to_step, lanes);
          for (int i = 0; residual != nullptr && i < count; ++i)
            emitter.emit(out[i], scale, bias, to + i * to_step, 1, residual + (j + i) * residual_step,
                         epilogue.residual.stride[kC], lanes);
        }
      }
      group += td.count * th.count * tw.count;
    }
  }
};

template <typename T>
Status run(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w, const Epilogue& e,
           const TensorView& result) {
  using A = accumulate_t<T>;
  const bool turned = !has_channel_vectors(source) || !has_channel_vectors(result);
  constexpr int lanes = Vector<A>::lanes;
  const Axis axis[3] = {make_axis(p, 0, adjoint), make_axis(p, 1, adjoint), make_axis(p, 2, adjoint)};
  const int64_t vectors = (p.c + lanes - 1) / lanes, rows = axis[0].result * axis[1].result;
  // The source rows of one result row, read again for the next, should stay in L2.
  const int64_t row_bytes = axis[2].source * p.filter[0] * p.filter[1] * kVectorBytes + 1;
  const VectorBlocks blocks = vector_blocks(vectors, turned ? 8 : 512 * 1024 / row_bytes);
  // Tasks that are long beside packing their filters, yet many.
  const int64_t work = axis[2].result * volume(p.filter) * lanes * blocks.most + 1;
  int64_t wanted = work * rows * blocks.count * p.n / 16;
  wanted = wanted < 131072 ? 131072 : wanted > 4194304 ? 4194304 : wanted;
  int64_t band = wanted / work + 1;
  if (band > rows || turned) band = rows;
  const int64_t positions = volume(p.in) + volume(p.out);
  const int64_t bands = (rows + band - 1) / band;
  const size_t filter = static_cast<size_t>(blocks.most * volume(p.filter) * lanes) * sizeof(A);
  const size_t offsets = static_cast<size_t>(p.filter[0] * p.filter[1]) * sizeof(int64_t);
  bool exhausted = false;
  parallel_for(p.n * blocks.count * bands, [&](int64_t i) {
    const int64_t block = i / bands % blocks.count, n = i / bands / blocks.count, first = i % bands * band;
    auto* scratch = static_cast<int64_t*>(thread_scratch(0, 2 * offsets + filter));
    if (scratch == nullptr) return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
    int64_t* filter_offset = scratch + p.filter[0] * p.filter[1];
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
    const Task<T> task{p,
                       {axis[0], axis[1], axis[2]},
                       from,
                       w,
                       to,
                       e,
                       scratch,
                       filter_offset,
                       reinterpret_cast<A*>(filter_offset + p.filter[0] * p.filter[1]),
                       blocks.begin(block),
                       blocks.begin(block + 1)};
    task.pack();
    for (int64_t row = first; row < first + band && row < rows; ++row)
      task.compute(n, row / axis[1].result, row % axis[1].result);
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
