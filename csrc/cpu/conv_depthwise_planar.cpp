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
#include "cpu/conv_depthwise.h"
#include "cpu/conv_emit.h"
#include "cpu/conv_stage.h"
#include "cpu/conv_window.h"

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
      const vector_t<A> x = load_vector<A>(source + u * w.row_step);
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
      for (int j = 0; j < kResults; ++j)
        acc[j] += tap * load_vector<A>(source + r * w.row_step + j * w.result_pitch);
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

// The result is cut into boxes of `block` positions per phase; a box's source is staged as
// planes x slices x rows x (step parts of `pitch` columns).
struct Plan {
  Axis axis[3];
  Reach reach[3];
  int64_t planes;  // source channels of one result channel
  int64_t fan;     // result channels of one source channel
  int64_t block[3], blocks[3];
  int64_t staged[3];  // slices, rows, columns
  int64_t pitch, row, slice, plane;
  int64_t units, units_per_task;
};

CONVKIT_INLINE int64_t phase_positions(const Axis& a) { return (a.result + a.phases - 1) / a.phases; }

CONVKIT_INLINE int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// Results per phase whose source spans at most `room` positions.
CONVKIT_INLINE int64_t fitting(const Axis& a, const Reach& r, int64_t room) {
  return clamp((room - (r.high - r.low + 1)) / a.step + 1, 1, phase_positions(a));
}

CONVKIT_INLINE void even_out(int64_t positions, int64_t* block, int64_t* blocks) {
  *blocks = (positions + *block - 1) / *block;
  *block = (positions + *blocks - 1) / *blocks;
}

Plan make_plan(const ConvProblem& p, bool adjoint, int lanes, int64_t element_bytes) {
  constexpr int64_t kPlaneBytes = 40 * 1024, kVolumeBytes = 512 * 1024, kMaxColumns = 2048;
  Plan plan{};
  plan.planes = adjoint ? multiplier(p) : 1;
  plan.fan = adjoint ? 1 : multiplier(p);
  for (int i = 0; i < 3; ++i) {
    plan.axis[i] = make_axis(p, i, adjoint);
    plan.reach[i] = reach_of(plan.axis[i]);
  }
  const auto span = [&](int i, int64_t block) {
    return (block - 1) * plan.axis[i].step + plan.reach[i].high - plan.reach[i].low + 1;
  };
  plan.block[2] = clamp(phase_positions(plan.axis[2]), 1, kMaxColumns);
  even_out(phase_positions(plan.axis[2]), &plan.block[2], &plan.blocks[2]);
  plan.staged[2] = span(2, plan.block[2]);
  plan.pitch = (plan.reach[2].high - plan.reach[2].low) / plan.axis[2].step +
               (plan.block[2] + lanes - 1) / lanes * lanes + lanes;
  plan.row = plan.pitch * plan.axis[2].step;
  const bool deep = plan.axis[0].kernel > 1;
  const int64_t budget = (deep ? kVolumeBytes : kPlaneBytes) / element_bytes / plan.planes / plan.row;  // rows
  plan.block[1] = fitting(plan.axis[1], plan.reach[1], budget / span(0, 1));
  if (plan.block[1] < kMaxRows) plan.block[1] = clamp(phase_positions(plan.axis[1]), 1, kMaxRows);
  even_out(phase_positions(plan.axis[1]), &plan.block[1], &plan.blocks[1]);
  plan.staged[1] = span(1, plan.block[1]);
  plan.block[0] = fitting(plan.axis[0], plan.reach[0], budget / plan.staged[1]);
  even_out(phase_positions(plan.axis[0]), &plan.block[0], &plan.blocks[0]);
  plan.staged[0] = span(0, plan.block[0]);
  plan.slice = plan.staged[1] * plan.row;
  plan.plane = plan.staged[0] * plan.slice;
  plan.units = p.n * p.c * plan.blocks[0] * plan.blocks[1] * plan.blocks[2];
  // Enough work to outweigh fetching a task: about 64k multiplications.
  const int64_t work = plan.block[0] * plan.block[1] * plan.block[2] * volume(p.filter) * multiplier(p) + 1;
  plan.units_per_task = clamp(65536 / work, 1, plan.units / 16 + 1);
  return plan;
}

template <typename T>
struct Unit {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  static constexpr int lanes = Vector<A>::lanes;

  const Plan& plan;
  const ConvProblem& p;
  const TensorView &source, &w, &result;
  const Epilogue& epilogue;
  A *staged, *filter, *line;
  int64_t* column;
  int64_t n, c, box[3];

  int64_t first(int dim) const { return box[dim] * plan.block[dim]; }
  // End of this box among the positions of a phase.
  int64_t last(int dim, int64_t phase) const {
    return clamp(phase_length(plan.axis[dim], phase), first(dim), first(dim) + plan.block[dim]);
  }

  void stage() const {
    int64_t origin[3];
    for (int i = 0; i < 3; ++i) origin[i] = first(i) * plan.axis[i].step + plan.reach[i].low;
    A* to = staged;
    for (int64_t i = 0; i < plan.planes; ++i)
      for (int64_t d = origin[0]; d < origin[0] + plan.staged[0]; ++d)
        for (int64_t h = origin[1]; h < origin[1] + plan.staged[1]; ++h, to += plan.row) {
          const bool inside = d >= 0 && d < plan.axis[0].source && h >= 0 && h < plan.axis[1].source;
          if (inside)
            stage_row<T>(data<T>(source) + offset(source, n, c * plan.planes + i, d, h, 0), source.stride[kW],
                         plan.axis[2].source, origin[2], plan.staged[2], to, plan.axis[2].step, plan.pitch);
          else
            zero_row(to, plan.row);
        }
  }

  // Filters of the result channel's planes, phase after phase, each ascending in source position; and where
  // each tap column starts in a staged row.
  void pack(int64_t k0) const {
    A* to = filter;
    for (int64_t pd = 0; pd < plan.axis[0].phases; ++pd)
      for (int64_t ph = 0; ph < plan.axis[1].phases; ++ph)
        for (int64_t pw = 0; pw < plan.axis[2].phases; ++pw) {
          const Taps d = phase_taps(plan.axis[0], pd), h = phase_taps(plan.axis[1], ph),
                     v = phase_taps(plan.axis[2], pw);
          for (int64_t i = 0; i < plan.planes; ++i)
            for (int64_t a = 0; a < d.count; ++a)
              for (int64_t b = 0; b < h.count; ++b) {
                const T* row = data<T>(w) + offset(w, k0 + i, 0, d.tap + a * d.tap_step, h.tap + b * h.tap_step, v.tap);
                for (int64_t s = 0; s < v.count; ++s) *to++ = load(row + s * v.tap_step * w.stride[kW]);
              }
        }
    int64_t* at = column;
    for (int64_t pw = 0; pw < plan.axis[2].phases; ++pw) {
      const Taps v = phase_taps(plan.axis[2], pw);
      for (int64_t s = 0; s < v.count; ++s) {
        const int64_t u = v.src + s * v.src_step - plan.reach[2].low;
        *at++ = u % plan.axis[2].step * plan.pitch + u / plan.axis[2].step;
      }
    }
  }

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
            window.source = staged +
                            ((jd - first(0)) * plan.axis[0].step + d.src - plan.reach[0].low) * plan.slice +
                            ((jh - first(1)) * plan.axis[1].step + h.src - plan.reach[1].low) * plan.row;
            window.filter = taps;
            window.planes = plan.planes;
            window.plane_pitch = plan.plane;
            window.slices = d.count;
            window.slice_step = d.src_step * plan.slice;
            window.rows = h.count;
            window.row_step = h.src_step * plan.row;
            window.result_pitch = plan.axis[1].step * plan.row;
            const int64_t at[kDims] = {n, k, jd * plan.axis[0].phases + pd, jh * plan.axis[1].phases + ph,
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
      emitter.emit(v, scale, bias, data<T>(result) + offset(result, n, at[kC], at[kD], h, x), result.stride[kW],
                   residual_at<T>(epilogue, n, at[kC], at[kD], h, x), epilogue.residual.stride[kW], valid);
    };
    const RowKernels<A> row_vectors{{any_rows<A, 7>, any_rows<A, 4>, any_rows<A, 2>, any_rows<A, 1>}};
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
  const size_t staged = static_cast<size_t>(plan.planes * plan.plane + 2 * lanes) * sizeof(A);
  const size_t filter = static_cast<size_t>(plan.planes * volume(p.filter)) * sizeof(A);
  const size_t columns = static_cast<size_t>(p.filter[2]) * sizeof(int64_t);
  const size_t line = static_cast<size_t>(kMaxRows * plan.axis[2].phases * (plan.block[2] + 2 * lanes)) * sizeof(A);
  bool exhausted = false;
  const int64_t tasks = (plan.units + plan.units_per_task - 1) / plan.units_per_task;
  parallel_for(tasks, [&](int64_t task) {
    Unit<T> unit{plan, p, source, w, result, e, nullptr, nullptr, nullptr, nullptr, 0, 0, {}};
    unit.staged = static_cast<A*>(thread_scratch(0, staged));
    unit.column = static_cast<int64_t*>(thread_scratch(1, columns + filter));
    unit.line = static_cast<A*>(thread_scratch(2, line));
    if (unit.staged == nullptr || unit.column == nullptr || unit.line == nullptr) return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
    unit.filter = reinterpret_cast<A*>(unit.column + p.filter[2]);
    const int64_t end = clamp((task + 1) * plan.units_per_task, 0, plan.units);
    for (int64_t i = task * plan.units_per_task; i < end; ++i) {
      int64_t rest = i;
      for (int dim = 2; dim >= 0; --dim) {
        unit.box[dim] = rest % plan.blocks[dim];
        rest /= plan.blocks[dim];
      }
      unit.c = rest % p.c;
      unit.n = rest / p.c;
      unit.stage();
      for (int64_t f = 0; f < plan.fan; ++f) {
        unit.pack(adjoint ? unit.c * plan.planes : unit.c * plan.fan + f);
        unit.compute(unit.c * plan.fan + f);
      }
    }
  });
  return exhausted ? Status{"conv_depthwise ran out of memory"} : kOk;
}

}  // namespace

Status depthwise_planar(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w,
                        const Epilogue& e, const TensorView& result) {
  Status status{"conv_depthwise has no kernel for this dtype"};
  visit_floating(result.dtype, [&](auto t) { status = run<typename decltype(t)::type>(p, adjoint, source, w, e, result); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
