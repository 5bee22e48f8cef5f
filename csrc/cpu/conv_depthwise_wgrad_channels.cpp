// conv_depthwise, channels: wgrad of depthwise convolution with vectors along C.
//
// Computes  dw[c,t] = sum_{n,o} dy[n,c,o] * x[n,c,o*stride - pad + t*dilation] in 1 to 3 dimensions.
// Layout    dy and x with channel stride 1, all other strides free, or small planes, turned in scratch memory.
// Mapping   a task is (up to 8 vectors of channels, share of dy's rows). For each row of dy and vector of channels
//           a kernel takes the filter rows three at a time: their sums sit in registers while it walks the row 7
//           columns at a time, each loaded x vector serving every column whose window holds it.
// Memory    one vector of sums per filter element and vector of channels, in L1; shares are added in order.
// Limits    K == C >= lanes, zero padding, floating dtypes.
#include "cpu/conv_depthwise.h"
#include "cpu/transpose.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kColumns = 7;

// One row of dy, one vector of channels, up to three filter rows.
template <typename T>
struct Row {
  const T* dy;
  int64_t length, dy_pitch;
  const T* x[3];  // source row of each filter row, column 0
  int64_t width, x_pitch;
  int64_t pad, step, dilation, taps;
  vector_t<accumulate_t<T>>* sum[3];
};

template <typename T, int kRows, int kTaps, int kStep, bool kBorder>
CONVKIT_INLINE void add_block(const Row<T>& row, int64_t j0, vector_t<accumulate_t<T>> (&sum)[kRows][kTaps]) {
  using V = vector_t<accumulate_t<T>>;
  V g[kColumns];
#pragma GCC unroll 16
  for (int j = 0; j < kColumns; ++j)
    g[j] = kBorder && j0 + j >= row.length ? V{} : in_register(load_vector<T>(row.dy + (j0 + j) * row.dy_pitch));
  const int64_t at = j0 * kStep - row.pad;
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 32
    for (int u = 0; u < (kColumns - 1) * kStep + kTaps; ++u) {
      if (kBorder && static_cast<uint64_t>(at + u) >= static_cast<uint64_t>(row.width)) continue;
      const V x = in_register(load_vector<T>(row.x[i] + (at + u) * row.x_pitch));
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        const int s = u - j * kStep;
        if (s >= 0 && s < kTaps && (!kBorder || j0 + j < row.length)) sum[i][s] += g[j] * x;
      }
    }
}

template <typename T, int kRows, int kTaps, int kStep>
void fixed_row(const Row<T>& row) {
  using V = vector_t<accumulate_t<T>>;
  V sum[kRows][kTaps];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int s = 0; s < kTaps; ++s) sum[i][s] = row.sum[i][s];
  for (int64_t j = 0; j < row.length; j += kColumns) {
    const int64_t at = j * kStep - row.pad, end = at + (kColumns - 1) * kStep + kTaps;
    if (at >= 0 && end <= row.width && j + kColumns <= row.length)
      add_block<T, kRows, kTaps, kStep, false>(row, j, sum);
    else
      add_block<T, kRows, kTaps, kStep, true>(row, j, sum);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int s = 0; s < kTaps; ++s) row.sum[i][s] = sum[i][s];
}

template <typename T>
void any_row(const Row<T>& row) {
  using V = vector_t<accumulate_t<T>>;
  for (int64_t s = 0; s < row.taps; ++s) {
    V even = row.sum[0][s], odd{};
    const int64_t at = s * row.dilation - row.pad;  // column of x under the first of dy
    int64_t j = at >= 0 ? 0 : (-at + row.step - 1) / row.step;
    int64_t end = at >= row.width ? 0 : (row.width - at + row.step - 1) / row.step;
    if (end > row.length) end = row.length;
    for (; j + 2 <= end; j += 2) {
      even += load_vector<T>(row.dy + j * row.dy_pitch) * load_vector<T>(row.x[0] + (at + j * row.step) * row.x_pitch);
      odd += load_vector<T>(row.dy + (j + 1) * row.dy_pitch) *
             load_vector<T>(row.x[0] + (at + (j + 1) * row.step) * row.x_pitch);
    }
    if (j < end)
      even += load_vector<T>(row.dy + j * row.dy_pitch) * load_vector<T>(row.x[0] + (at + j * row.step) * row.x_pitch);
    row.sum[0][s] = even + odd;
  }
}

template <typename T>
using RowKernel = void (*)(const Row<T>&);
template <typename T>
struct RowKernels {
  RowKernel<T> three, one;  // three may be nullptr
};

template <typename T>
RowKernels<T> choose_kernels(int64_t taps, int64_t dilation, int64_t step) {
  if (dilation == 1 && step == 1) {
    if (taps == 3) return {fixed_row<T, 3, 3, 1>, fixed_row<T, 1, 3, 1>};
    if (taps == 5) return {fixed_row<T, 3, 5, 1>, fixed_row<T, 1, 5, 1>};
    if (taps == 7) return {fixed_row<T, 3, 7, 1>, fixed_row<T, 1, 7, 1>};
  }
  if (dilation == 1 && step == 2) {
    if (taps == 3) return {fixed_row<T, 3, 3, 2>, fixed_row<T, 1, 3, 2>};
    if (taps == 5) return {fixed_row<T, 3, 5, 2>, fixed_row<T, 1, 5, 2>};
  }
  return {nullptr, any_row<T>};
}

// Adds the products of row (o, q) of image n, for the vectors [first, last), to the sums: vector x taps.
template <typename T>
void add_row(const ConvProblem& p, const RowKernels<T>& kernels, const TensorView& dy, const TensorView& x, int64_t n,
             int64_t o, int64_t q, int64_t first, int64_t last, vector_t<accumulate_t<T>>* sums) {
  Row<T> row{};
  row.length = p.out[2];
  row.dy_pitch = dy.stride[kW];
  row.width = p.in[2];
  row.x_pitch = x.stride[kW];
  row.pad = p.pad_before[2];
  row.step = p.stride[2];
  row.dilation = p.dilation[2];
  row.taps = p.filter[2];
  for (int64_t v = first; v < last; ++v, sums += volume(p.filter)) {
    const int64_t c = vector_channel<T>(p.c, v);
    row.dy = data<T>(dy) + offset(dy, n, c, o, q, 0);
    int held = 0;
    for (int64_t t = 0; t < p.filter[0]; ++t)
      for (int64_t r = 0; r < p.filter[1]; ++r) {
        const int64_t d = o * p.stride[0] - p.pad_before[0] + t * p.dilation[0];
        const int64_t h = q * p.stride[1] - p.pad_before[1] + r * p.dilation[1];
        if (d < 0 || d >= p.in[0] || h < 0 || h >= p.in[1]) continue;
        row.x[held] = data<T>(x) + offset(x, n, c, d, h, 0);
        row.sum[held] = sums + (t * p.filter[1] + r) * p.filter[2];
        if (++held < 3 && kernels.three != nullptr) continue;
        (held == 3 ? kernels.three : kernels.one)(row);
        held = 0;
      }
    for (int i = 0; i < held; ++i) {
      row.x[0] = row.x[i];
      row.sum[0] = row.sum[i];
      kernels.one(row);
    }
  }
}

template <typename T>
Status run(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = Vector<A>::lanes;
  const RowKernels<T> kernels = choose_kernels<T>(p.filter[2], p.dilation[2], p.stride[2]);
  const int64_t taps = volume(p.filter), vectors = (p.c + lanes - 1) / lanes;
  const int64_t row_bytes = p.in[2] * p.filter[1] * kVectorBytes + 1;
  const int64_t wanted = 40 * 1024 / row_bytes;
  const VectorBlocks blocks = vector_blocks(vectors, wanted < 8 ? wanted : 8);
  // Shares of whole rows: about 4096 positions per sum, more where there are few blocks.
  const int64_t plane_rows = p.out[0] * p.out[1], rows = p.n * plane_rows;
  const bool turned = !has_channel_vectors(dy) || !has_channel_vectors(x);
  int64_t shares = rows * p.out[2] / 4096 + 1;
  if (shares * blocks.count < 16) shares = (15 + blocks.count) / blocks.count;
  if (shares > rows / 4 + 1) shares = rows / 4 + 1;
  if (turned && shares > p.n) shares = p.n > 0 ? p.n : 1;
  bool exhausted = false;
  const int64_t share_sums = vectors * taps;
  V* partial = static_cast<V*>(thread_scratch(3, static_cast<size_t>(shares * share_sums) * sizeof(V)));
  if (partial == nullptr) return {"conv_depthwise ran out of memory"};
  parallel_for(shares * blocks.count, [&](int64_t task) {
    const int64_t share = task / blocks.count, block = task % blocks.count;
    const int64_t first = blocks.begin(block), last = blocks.begin(block + 1);
    V* sums = partial + share * share_sums + first * taps;
    for (int64_t i = 0; i < (last - first) * taps; ++i) sums[i] = V{};
    if (!turned) {
      for (int64_t row = share * rows / shares; row < (share + 1) * rows / shares; ++row)
        add_row<T>(p, kernels, dy, x, row / plane_rows, row % plane_rows / p.out[1], row % p.out[1], first, last, sums);
      return;
    }
    const int64_t c = vector_channel<T>(p.c, first), count = vector_channel<T>(p.c, last - 1) + lanes - c;
    T* planes =
        static_cast<T*>(thread_scratch(0, static_cast<size_t>((volume(p.in) + volume(p.out)) * count) * sizeof(T)));
    if (planes == nullptr) return __atomic_store_n(&exhausted, true, __ATOMIC_RELAXED);
    const TensorView from = block_view<T>(x, planes, c, count);
    const TensorView under = block_view<T>(dy, planes + volume(p.in) * count, c, count);
    for (int64_t n = share * p.n / shares; n < (share + 1) * p.n / shares; ++n) {
      planes_to_channels<T>(x, n, c, count, planes);
      planes_to_channels<T>(dy, n, c, count, planes + volume(p.in) * count);
      for (int64_t row = 0; row < plane_rows; ++row)
        add_row<T>(p, kernels, under, from, n, row / p.out[1], row % p.out[1], first, last, sums);
    }
  });
  parallel_for(blocks.count, [&](int64_t block) {
    for (int64_t v = blocks.begin(block); v < blocks.begin(block + 1); ++v)
      for (int64_t t = 0; t < taps; ++t) {
        V sum = partial[v * taps + t];
        for (int64_t i = 1; i < shares; ++i) sum += partial[i * share_sums + v * taps + t];
        const int64_t s = t % p.filter[2], r = t / p.filter[2] % p.filter[1];
        store_strided<T>(data<T>(dw) + offset(dw, vector_channel<T>(p.c, v), 0, t / p.filter[2] / p.filter[1], r, s),
                         dw.stride[kN], sum, lanes);
      }
  });
  return exhausted ? Status{"conv_depthwise ran out of memory"} : kOk;
}

}  // namespace

Status depthwise_wgrad_channels(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  Status status{"conv_depthwise has no kernel for this dtype"};
  visit_floating(dw.dtype, [&](auto t) { status = run<typename decltype(t)::type>(p, dy, x, dw); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
