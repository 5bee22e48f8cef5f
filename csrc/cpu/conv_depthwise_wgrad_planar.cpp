// conv_depthwise, planar: wgrad of depthwise (and narrow grouped) convolution with vectors along W.
//
// Computes  dw[k,c,t] = sum_{n,o} dy[n,k,o] * x[n,c,o*stride - pad + t*dilation] in 1 to 3 dimensions.
// Layout    any strides; NCHW is the case it is made for.
// Mapping   a task is (group, share of the group's boxes). It holds one vector of partial sums for every filter
//           element of the group; a kernel takes up to 7 rows of dy, one vector wide, and updates all of them, each
//           loaded x vector serving every row of dy whose window holds it. So x and dy are read once.
// Memory    x boxes staged as in fprop; sums of the shares are added in order, whatever thread made them.
// Limits    zero padding, floating dtypes.
#include "cpu/conv_boxes.h"
#include "cpu/conv_depthwise.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kRows = 7;

// Operands of a kernel. Offsets in elements of the staged box.
template <typename A>
struct Window {
  const A* source;  // under the first row and column of dy
  int64_t slices, slice_step, rows, row_step, columns;
  const int64_t* column;  // offset of each tap column
  int64_t result_pitch;   // between the rows of dy
};

// The lanes below n are kept, the others become zero: beyond a row's end dy is zero, but x may be infinite.
template <typename A>
CONVKIT_INLINE vector_t<A> keep_lanes(vector_t<A> v, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4)
    return (vector_t<A>)_mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1u), (__m512)v);
  else
    return (vector_t<A>)_mm512_maskz_mov_pd(static_cast<__mmask8>((1u << n) - 1u), (__m512d)v);
#else
  for (int i = 0; i < Vector<A>::lanes; ++i) v[i] = i < n ? v[i] : A(0);
  return v;
#endif
}

// acc: slices x columns x rows. `valid`: lanes of dy that are in its row; kTail: not all.
template <typename A, int kTaps, int kStep, int kCount, bool kTail>
void fixed_rows(const Window<A>& w, const vector_t<A>* dy, vector_t<A>* acc, int valid) {
  using V = vector_t<A>;
  V g[kCount];
#pragma GCC unroll 16
  for (int j = 0; j < kCount; ++j) g[j] = dy[j];
  for (int64_t t = 0; t < w.slices; ++t)
    for (int64_t s = 0; s < w.columns; ++s, acc += kTaps) {
      const A* source = w.source + t * w.slice_step + w.column[s];
      V sum[kTaps];
#pragma GCC unroll 16
      for (int r = 0; r < kTaps; ++r) sum[r] = acc[r];
#pragma GCC unroll 32
      for (int u = 0; u < (kCount - 1) * kStep + kTaps; ++u) {
        V x = in_register(load_vector<A>(source + u * w.row_step));
        if (kTail) x = keep_lanes<A>(x, valid);
#pragma GCC unroll 16
        for (int j = 0; j < kCount; ++j) {
          const int r = u - j * kStep;
          if (r >= 0 && r < kTaps) sum[r] += g[j] * x;
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kTaps; ++r) acc[r] = sum[r];
    }
}

// The tail's lane count belongs to the last of the kCount vectors where they lie along a row (`along`), to all
// of them where they are rows.
template <typename A, int kCount>
void any_rows(const Window<A>& w, const vector_t<A>* dy, vector_t<A>* acc, int valid, bool along) {
  using V = vector_t<A>;
  for (int64_t t = 0; t < w.slices; ++t)
    for (int64_t s = 0; s < w.columns; ++s)
      for (int64_t r = 0; r < w.rows; ++r, ++acc) {
        const A* source = w.source + t * w.slice_step + w.column[s] + r * w.row_step;
        V sum{};
#pragma GCC unroll 16
        for (int j = 0; j < kCount; ++j) {
          V x = load_vector<A>(source + j * w.result_pitch);
          if (valid < Vector<A>::lanes && (!along || j == kCount - 1)) x = keep_lanes<A>(x, valid);
          sum += dy[j] * x;
        }
        *acc += sum;
      }
}

constexpr int kCounts[4] = {7, 4, 2, 1};

template <typename A>
using RowKernel = void (*)(const Window<A>&, const vector_t<A>*, vector_t<A>*, int);
template <typename A>
struct RowKernels {
  RowKernel<A> full[4], tail[4];  // nullptr: any_rows
};

template <typename A, int kTaps, int kStep>
CONVKIT_INLINE RowKernels<A> fixed_kernels() {
  return {{fixed_rows<A, kTaps, kStep, 7, false>, fixed_rows<A, kTaps, kStep, 4, false>,
           fixed_rows<A, kTaps, kStep, 2, false>, fixed_rows<A, kTaps, kStep, 1, false>},
          {fixed_rows<A, kTaps, kStep, 7, true>, fixed_rows<A, kTaps, kStep, 4, true>,
           fixed_rows<A, kTaps, kStep, 2, true>, fixed_rows<A, kTaps, kStep, 1, true>}};
}

template <typename A>
RowKernels<A> choose_kernels(int64_t rows, int64_t tap_distance, int64_t result_distance) {
  if (tap_distance == 1 && result_distance == 1) {
    if (rows == 3) return fixed_kernels<A, 3, 1>();
    if (rows == 5) return fixed_kernels<A, 5, 1>();
    if (rows == 7) return fixed_kernels<A, 7, 1>();
  }
  if (tap_distance == 1 && result_distance == 2) {
    if (rows == 3) return fixed_kernels<A, 3, 2>();
    if (rows == 5) return fixed_kernels<A, 5, 2>();
  }
  return {};
}

template <typename A>
CONVKIT_INLINE void run_any(int choice, const Window<A>& w, const vector_t<A>* dy, vector_t<A>* acc, int valid,
                            bool along) {
  switch (choice) {
    case 0: return any_rows<A, 7>(w, dy, acc, valid, along);
    case 1: return any_rows<A, 4>(w, dy, acc, valid, along);
    case 2: return any_rows<A, 2>(w, dy, acc, valid, along);
    default: return any_rows<A, 1>(w, dy, acc, valid, along);
  }
}

template <typename T>
CONVKIT_INLINE vector_t<accumulate_t<T>> load_some(const T* p, int64_t stride, int n) {
  if (stride != 1) return load_strided<T>(p, stride, n);
  return n == lanes_of<T>() ? load_vector<T>(p) : load_partial<T>(p, n);
}

// Adds one staged box's products to the sums: results x planes x (slices x columns x rows).
template <typename T>
void accumulate_box(const Plan& plan, const ConvProblem& p, const Box& box, const TensorView& dy,
                    const accumulate_t<T>* staged, const int64_t* column, vector_t<accumulate_t<T>>* sums) {
  using A = accumulate_t<T>;
  constexpr int lanes = Vector<A>::lanes;
  const RowKernels<A> kernels = choose_kernels<A>(p.filter[1], p.dilation[1], p.stride[1]);
  const int64_t taps = volume(p.filter), x0 = first_position(plan, box, 2);
  const int64_t length = last_position(plan, box, 2, 0) - x0;
  Window<A> window{};
  window.slices = p.filter[0];
  window.slice_step = p.dilation[0] * plan.slice;
  window.rows = p.filter[1];
  window.row_step = p.dilation[1] * plan.row;
  window.columns = p.filter[2];
  window.column = column;
  for (int64_t r = 0; r < plan.results; ++r, sums += plan.planes * taps)
    for (int64_t o = first_position(plan, box, 0); o < last_position(plan, box, 0, 0); ++o)
      for (int64_t q = first_position(plan, box, 1), rows = last_position(plan, box, 1, 0); q < rows;) {
        int choice = 0;
        while (q + kCounts[choice] > rows) ++choice;
        const int count = kCounts[choice];
        const T* from = data<T>(dy) + offset(dy, box.n, box.group * plan.results + r, o, q, x0);
        const A* under = staged + (o - first_position(plan, box, 0)) * plan.axis[0].step * plan.slice +
                         (q - first_position(plan, box, 1)) * plan.axis[1].step * plan.row;
        for (int64_t x = 0; x < length;) {
          vector_t<A> g[kRows];
          int across = 1, kernel = choice;
          if (count == 1 && length - x > lanes) {  // several vectors of the one row
            kernel = 0;
            while (x + (kCounts[kernel] - 1) * lanes >= length) ++kernel;
            across = kCounts[kernel];
          }
          const int64_t left = length - x - (across - 1) * lanes;
          const int valid = left < lanes ? static_cast<int>(left) : lanes;
          for (int j = 0; j < count * across; ++j)
            g[j] = across == 1 ? load_some<T>(from + j * dy.stride[kH] + x * dy.stride[kW], dy.stride[kW], valid)
                               : load_some<T>(from + (x + j * lanes) * dy.stride[kW], dy.stride[kW],
                                              j == across - 1 ? valid : lanes);
          window.result_pitch = across > 1 ? lanes : plan.axis[1].step * plan.row;
          for (int64_t i = 0; i < plan.planes; ++i) {
            window.source = under + i * plan.plane + x;
            if (across > 1 || kernels.full[0] == nullptr)
              run_any<A>(kernel, window, g, sums + i * taps, valid, across > 1);
            else
              (valid == lanes ? kernels.full : kernels.tail)[kernel](window, g, sums + i * taps, valid);
          }
          x += across * lanes;
        }
        q += count;
      }
}

template <typename T>
Status run(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  const Plan plan = make_plan(p, false, Vector<A>::lanes, sizeof(A));
  const int64_t taps = volume(p.filter), filters = plan.results * plan.planes;
  const int64_t boxes = plan.blocks[0] * plan.blocks[1] * plan.blocks[2], units = p.n * boxes;
  // Shares of about 64k elements of dy per channel, more where there are few groups.
  const int64_t elements = p.n * volume(p.out);
  int64_t shares = elements / 65536 + 1;
  if (shares * p.groups < 16) shares = (15 + p.groups) / p.groups;
  if (shares > units) shares = units > 0 ? units : 1;
  const int64_t group_sums = filters * taps;
  const size_t staged_bytes = static_cast<size_t>(staged_elements<T>(plan)) * sizeof(A);
  const size_t sum_bytes = static_cast<size_t>(group_sums) * sizeof(V);
  const size_t column_bytes = static_cast<size_t>(p.filter[2]) * sizeof(int64_t);
  A* partial = static_cast<A*>(thread_scratch(3, static_cast<size_t>(shares * p.groups * group_sums) * sizeof(A)));
  if (partial == nullptr) return {"conv_depthwise ran out of memory"};
  bool exhausted = false;
  parallel_for(shares * p.groups, [&](int64_t task) {
    const int64_t group = task % p.groups, share = task / p.groups;
    A* staged = static_cast<A*>(thread_scratch(0, staged_bytes));
    V* sums = static_cast<V*>(thread_scratch(1, sum_bytes + column_bytes));
    if (staged == nullptr || sums == nullptr) return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
    int64_t* column = reinterpret_cast<int64_t*>(sums + group_sums);
    tap_columns(plan, column);
    for (int64_t i = 0; i < group_sums; ++i) sums[i] = V{};
    for (int64_t unit = share * units / shares; unit < (share + 1) * units / shares; ++unit) {
      const Box box = box_of(plan, p.groups, (unit / boxes * p.groups + group) * boxes + unit % boxes);
      stage_box<T>(plan, box, x, staged);
      accumulate_box<T>(plan, p, box, dy, staged, column, sums);
    }
    A* to = partial + task * group_sums;
    for (int64_t i = 0; i < group_sums; ++i) to[i] = sum_lanes<A>(sums[i]);
  });
  if (exhausted) return {"conv_depthwise ran out of memory"};
  for (int64_t k = 0; k < p.k; ++k) {
    const A* from = partial + k * plan.planes * taps;  // groups x results x planes
    for (int64_t c = 0; c < plan.planes; ++c)
      for (int64_t t = 0; t < p.filter[0]; ++t)
        for (int64_t s = 0; s < p.filter[2]; ++s)
          for (int64_t r = 0; r < p.filter[1]; ++r, ++from) {
            A sum = *from;
            for (int64_t i = 1; i < shares; ++i) sum += from[i * p.groups * group_sums];
            store(data<T>(dw) + offset(dw, k, c, t, r, s), sum);
          }
  }
  return kOk;
}

}  // namespace

Status depthwise_wgrad_planar(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  Status status{"conv_depthwise has no kernel for this dtype"};
  visit_floating(dw.dtype, [&](auto t) { status = run<typename decltype(t)::type>(p, dy, x, dw); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
