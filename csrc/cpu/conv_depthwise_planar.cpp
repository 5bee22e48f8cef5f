// conv_depthwise, planar: fprop and dgrad of depthwise convolution with vectors along W.
//
// Computes  fprop  y[n,k,o] = epilogue(sum_t x[n,c,o*stride - pad + t*dilation] w[k,t]),  c = k / multiplier
//           dgrad  dx[n,c,i] = epilogue(sum_{k of c} sum_{t reading i} dy[n,k,(i + pad - t*dilation)/stride] w[k,t])
//           in 1 to 3 dimensions; both are the sliding sum of conv_window.h.
// Layout    any strides; NCHW is the case it is made for.
// Mapping   a unit is (image, channel, box of the result); a task is a run of units. A kernel computes one
//           vector of columns in up to 7 rows: for each tap column the filter column sits in registers and each
//           loaded row vector serves every row whose window holds it. 1-d filters take 7 vectors of one row.
// Memory    the box's source rows are staged (converted, padded, columns of equal residue together) in L1, or L2
//           in 3-d; results leave through the epilogue. dgrad's column phases meet in a line buffer.
// Limits    groups == C, zero padding, floating dtypes.
#include "cpu/conv_boxes.h"
#include "cpu/conv_depthwise.h"
#include "cpu/conv_emit.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kMaxRows = 7;  // divides the plane sizes of most networks (7, 14, 28, 56, 112)

// Where a row kernel finds its operands. All offsets in elements of the staged box.
template <typename A>
struct Window {
  const A* source;  // at the first result row and column
  const A* filter;  // planes x slices x rows x columns, ascending in source position
  int64_t planes, plane_pitch;
  int64_t slices, slice_step;
  int64_t rows, row_step;  // row_step: between taps
  int64_t columns;
  const int64_t* column;  // offset of each tap column
  int64_t result_pitch;   // between the kernel's result rows
};

template <typename A, typename F>
CONVKIT_INLINE void for_tap_columns(const Window<A>& w, const F& f) {
  const A* filter = w.filter;
  for (int64_t p = 0; p < w.planes; ++p)
    for (int64_t t = 0; t < w.slices; ++t, filter += w.rows * w.columns) {
      const A* sheet = w.source + p * w.plane_pitch + t * w.slice_step;
      for (int64_t s = 0; s < w.columns; ++s) f(sheet + w.column[s], filter + s);
    }
}

// kRows filter rows, result rows kStep staged rows apart.
template <typename A, int kRows, int kStep, int kResults>
void fixed_rows(const Window<A>& w, vector_t<A>* out) {
  vector_t<A> acc[kResults] = {};
  for_tap_columns(w, [&](const A* source, const A* filter) {
    vector_t<A> tap[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) tap[r] = broadcast<A>(filter[r * w.columns]);
#pragma GCC unroll 32
    for (int u = 0; u < (kResults - 1) * kStep + kRows; ++u) {
      const vector_t<A> x = in_register(load_vector<A>(source + u * w.row_step));
#pragma GCC unroll 16
      for (int j = 0; j < kResults; ++j) {
        const int r = u - j * kStep;
        if (r >= 0 && r < kRows) acc[j] += tap[r] * x;
      }
    }
  });
#pragma GCC unroll 16
  for (int j = 0; j < kResults; ++j) out[j] = acc[j];
}

// Any number of filter rows, any distances.
template <typename A, int kResults>
void any_rows(const Window<A>& w, vector_t<A>* out) {
  vector_t<A> acc[kResults] = {};
  for_tap_columns(w, [&](const A* source, const A* filter) {
    for (int64_t r = 0; r < w.rows; ++r) {
      const vector_t<A> tap = broadcast<A>(filter[r * w.columns]);
#pragma GCC unroll 16
      for (int j = 0; j < kResults; ++j) acc[j] += tap * load_vector<A>(source + r * w.row_step + j * w.result_pitch);
    }
  });
#pragma GCC unroll 16
  for (int j = 0; j < kResults; ++j) out[j] = acc[j];
}

template <typename A>
using RowKernel = void (*)(const Window<A>&, vector_t<A>*);

// The kernels for 7, 4, 2 and 1 result rows.
template <typename A>
struct RowKernels {
  RowKernel<A> of[4];
};
constexpr int kResultRows[4] = {7, 4, 2, 1};

template <typename A, int kRows, int kStep>
CONVKIT_INLINE RowKernels<A> fixed_kernels() {
  return {{fixed_rows<A, kRows, kStep, 7>, fixed_rows<A, kRows, kStep, 4>, fixed_rows<A, kRows, kStep, 2>,
           fixed_rows<A, kRows, kStep, 1>}};
}

template <typename A>
RowKernels<A> choose_kernels(int64_t rows, int64_t tap_distance, int64_t result_distance) {
  if (tap_distance == 1 && result_distance == 1) {
    switch (rows) {
      case 2: return fixed_kernels<A, 2, 1>();
      case 3: return fixed_kernels<A, 3, 1>();
      case 4: return fixed_kernels<A, 4, 1>();
      case 5: return fixed_kernels<A, 5, 1>();
      case 7: return fixed_kernels<A, 7, 1>();
      default: break;
    }
  }
  if (tap_distance == 1 && result_distance == 2) {
    switch (rows) {
      case 3: return fixed_kernels<A, 3, 2>();
      case 5: return fixed_kernels<A, 5, 2>();
      case 7: return fixed_kernels<A, 7, 2>();
      default: break;
    }
  }
  return {{any_rows<A, 7>, any_rows<A, 4>, any_rows<A, 2>, any_rows<A, 1>}};
}

// Filters of result channel r of a group, phase after phase, each ascending in source position:
// planes x slices x rows x columns.
template <typename T>
void pack_filter(const Plan& plan, const TensorView& w, int64_t group, int64_t r, accumulate_t<T>* to) {
  const bool adjoint = plan.axis[0].adjoint;
  const int64_t k0 = adjoint ? group * plan.planes : group * plan.results + r, c0 = adjoint ? r : 0;
  const int64_t plane_stride = w.stride[adjoint ? kN : kC];
  for (int64_t pd = 0; pd < plan.axis[0].phases; ++pd)
    for (int64_t ph = 0; ph < plan.axis[1].phases; ++ph)
      for (int64_t pw = 0; pw < plan.axis[2].phases; ++pw) {
        const Taps d = phase_taps(plan.axis[0], pd), h = phase_taps(plan.axis[1], ph), v = phase_taps(plan.axis[2], pw);
        for (int64_t i = 0; i < plan.planes; ++i)
          for (int64_t a = 0; a < d.count; ++a)
            for (int64_t b = 0; b < h.count; ++b) {
              const T* row = data<T>(w) + i * plane_stride +
                             offset(w, k0, c0, d.tap + a * d.tap_step, h.tap + b * h.tap_step, v.tap);
              for (int64_t s = 0; s < v.count; ++s) *to++ = load(row + s * v.tap_step * w.stride[kW]);
            }
      }
}

template <typename T>
struct Unit {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  static constexpr int lanes = Vector<A>::lanes;

  const Plan& plan;
  const TensorView& result;
  const Epilogue& epilogue;
  A *staged, *filter, *line;
  int64_t* column;
  Box box;

  int64_t first(int dim) const { return first_position(plan, box, dim); }
  int64_t last(int dim, int64_t phase) const { return last_position(plan, box, dim, phase); }

  // Result channel k from the staged box.
  void compute(int64_t k) const {
    const Emitter<T> emitter{epilogue};
    const V scale = emitter.scale_of(k), bias = emitter.bias_of(k);
    const A* taps = filter;
    for (int64_t pd = 0; pd < plan.axis[0].phases; ++pd) {
      const Taps d = phase_taps(plan.axis[0], pd);
      for (int64_t ph = 0; ph < plan.axis[1].phases; ++ph) {
        const Taps h = phase_taps(plan.axis[1], ph);
        const RowKernels<A> kernels = choose_kernels<A>(h.count, h.src_step, plan.axis[1].step);
        for (int64_t jd = first(0); jd < last(0, pd); ++jd)
          for (int64_t jh = first(1); jh < last(1, ph);) {
            int choice = 0;
            while (jh + kResultRows[choice] > last(1, ph)) ++choice;
            Window<A> window{};
            window.source = staged + ((jd - first(0)) * plan.axis[0].step + d.src - plan.reach[0].low) * plan.slice +
                            ((jh - first(1)) * plan.axis[1].step + h.src - plan.reach[1].low) * plan.row;
            window.filter = taps;
            window.planes = plan.planes;
            window.plane_pitch = plan.plane;
            window.slices = d.count;
            window.slice_step = d.src_step * plan.slice;
            window.rows = h.count;
            window.row_step = h.src_step * plan.row;
            window.result_pitch = plan.axis[1].step * plan.row;
            const int64_t at[kDims] = {box.n, k, jd * plan.axis[0].phases + pd, jh * plan.axis[1].phases + ph,
                                       first(2) * plan.axis[2].phases};
            compute_rows(emitter, scale, bias, window, kernels.of[choice], kResultRows[choice], at);
            jh += kResultRows[choice];
          }
        taps += plan.planes * d.count * h.count * plan.axis[2].kernel;
      }
    }
  }

  // `count` result rows that start at position `at`.
  void compute_rows(const Emitter<T>& emitter, V scale, V bias, Window<A> window, RowKernel<A> kernel, int count,
                    const int64_t (&at)[kDims]) const {
    const int64_t row_distance = plan.axis[1].phases, phases = plan.axis[2].phases;
    const int64_t line_pitch = plan.block[2] + 2 * lanes;
    const auto emit = [&](V v, int j, int64_t from, int64_t end) {  // columns from the box's first
      const int64_t h = at[kH] + j * row_distance, x = at[kW] + from;
      const int valid = end - from < lanes ? static_cast<int>(end - from) : lanes;
      emitter.emit(v, scale, bias, data<T>(result) + offset(result, box.n, at[kC], at[kD], h, x), result.stride[kW],
                   residual_at<T>(epilogue, box.n, at[kC], at[kD], h, x), epilogue.residual.stride[kW], valid);
    };
    const RowKernels<A> row_vectors{{any_rows<A, 7>, any_rows<A, 4>, any_rows<A, 2>, any_rows<A, 1>}};
    const bool side_by_side = phases == 1 && result.stride[kW] == 1 && epilogue.residual.data == nullptr;
    T* to = data<T>(result) + offset(result, box.n, at[kC], at[kD], at[kH], at[kW]);
    const A* source = window.source;
    window.column = column;
    for (int64_t pw = 0; pw < phases; ++pw) {
      const Taps v = phase_taps(plan.axis[2], pw);
      window.columns = v.count;
      const int64_t length = last(2, pw) - first(2);
      V out[kMaxRows];
      for (int64_t x = 0; x < length;) {
        window.source = source + x;
        int across = 1;  // vectors of one row that the kernel takes
        if (count == 1 && length - x > lanes) {
          int choice = 0;
          while (x + (kResultRows[choice] - 1) * lanes >= length) ++choice;
          across = kResultRows[choice];
          window.result_pitch = lanes;
          row_vectors.of[choice](window, out);
        } else {
          kernel(window, out);
        }
        if (side_by_side && across == 1) {
          emitter.emit_rows(out, count, scale, bias, to + x, row_distance * result.stride[kH],
                            length - x < lanes ? static_cast<int>(length - x) : lanes);
          x += lanes;
          continue;
        }
        for (int i = 0; i < count * across; ++i) {
          const int j = across > 1 ? 0 : i;
          const int64_t from = across > 1 ? x + i * lanes : x;
          if (phases == 1)
            emit(out[i], j, from, length);
          else
            store_vector<A>(line + (j * phases + pw) * line_pitch + from, out[i]);
        }
        x += across * lanes;
      }
      window.filter += window.planes * window.slices * window.rows * v.count;
      window.column += v.count;
    }
    if (phases == 1) return;
    const int64_t start = first(2) * phases;
    int64_t end = (first(2) + plan.block[2]) * phases;
    if (end > plan.axis[2].result) end = plan.axis[2].result;
    for (int j = 0; j < count; ++j) {
      const A* rows = line + j * phases * line_pitch;
      int64_t x = 0;
      if (phases == 2) {
        for (int64_t i = 0; x < end - start; x += 2 * lanes, i += lanes) {
          const V a = load_vector<A>(rows + i), b = load_vector<A>(rows + line_pitch + i);
          emit(interleave<0, A>(a, b), j, x, end - start);
          if (x + lanes < end - start) emit(interleave<1, A>(a, b), j, x + lanes, end - start);
        }
      } else {
        for (; x < end - start; x += lanes) {
          A lane[lanes] = {};
          for (int i = 0; i < lanes && x + i < end - start; ++i)
            lane[i] = rows[(x + i) % phases * line_pitch + (x + i) / phases];
          emit(load_vector<A>(lane), j, x, end - start);
        }
      }
    }
  }
};

template <typename T>
Status run(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w, const Epilogue& e,
           const TensorView& result) {
  using A = accumulate_t<T>;
  constexpr int lanes = Vector<A>::lanes;
  const Plan plan = make_plan(p, adjoint, lanes, sizeof(A));
  const size_t staged = static_cast<size_t>(staged_elements<T>(plan)) * sizeof(A);
  const size_t filter = static_cast<size_t>(plan.planes * volume(p.filter)) * sizeof(A);
  const size_t columns = static_cast<size_t>(p.filter[2]) * sizeof(int64_t);
  const size_t line = static_cast<size_t>(kMaxRows * plan.axis[2].phases * (plan.block[2] + 2 * lanes)) * sizeof(A);
  bool exhausted = false;
  const int64_t tasks = (plan.units + plan.units_per_task - 1) / plan.units_per_task;
  parallel_for(tasks, [&](int64_t task) {
    Unit<T> unit{plan, result, e, nullptr, nullptr, nullptr, nullptr, {}};
    unit.staged = static_cast<A*>(thread_scratch(0, staged));
    unit.column = static_cast<int64_t*>(thread_scratch(1, columns + filter));
    unit.line = static_cast<A*>(thread_scratch(2, line));
    if (unit.staged == nullptr || unit.column == nullptr || unit.line == nullptr)
      return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
    unit.filter = reinterpret_cast<A*>(unit.column + p.filter[2]);
    tap_columns(plan, unit.column);
    const int64_t end = clamp((task + 1) * plan.units_per_task, 0, plan.units);
    for (int64_t i = task * plan.units_per_task; i < end; ++i) {
      unit.box = box_of(plan, p.groups, i);
      stage_box<T>(plan, unit.box, source, unit.staged);
      for (int64_t r = 0; r < plan.results; ++r) {
        pack_filter<T>(plan, w, unit.box.group, r, unit.filter);
        unit.compute(unit.box.group * plan.results + r);
      }
    }
  });
  return exhausted ? Status{"conv_depthwise ran out of memory"} : kOk;
}

}  // namespace

Status depthwise_planar(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w,
                        const Epilogue& e, const TensorView& result) {
  Status status{"conv_depthwise has no kernel for this dtype"};
  visit_floating(result.dtype,
                 [&](auto t) { status = run<typename decltype(t)::type>(p, adjoint, source, w, e, result); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
