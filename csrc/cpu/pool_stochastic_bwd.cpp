// stochastic_mean_bwd: the gradient of the expectation of stochastic pooling.
//
// Computes  dx[i] = sum over the windows o that read i of dy[o] (2 x[i] - y[o]) / sum(o) where x[i] is positive, else 0
// Layout    any; channels_last tensors in vectors of channels, others along w
// Mapping   the windows' sums first, into a tensor of the caller's; then a unit is one row of dx. Each element is
//           written once, and its windows are added in row major order.
// Memory    along w: the row of x and its gradient, split by phase as in pool_staging.h, and one row of dy, y and sums
// Limits    floating dtypes. Compiled without contraction, as the sums are.
#include "core/stochastic_ops.h"
#include "cpu/pool_channels.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_staging.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

template <typename T>
struct ChannelGradient {
  using A = pool_accumulate_t<T>;
  using V = Vec<A>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &dy, &x, &y, &sums, &dx;
  ReaderTables tables, sum_tables;  // the second for where rows lie in sums

  void carve(Carver& c, const PoolProblem& problem) {
    tables.carve(c, problem);
    sum_tables.carve(c, problem);
  }

  void row(int64_t n, int64_t d, int64_t h) {
    const int64_t rows = tables.prepare_row(p, dy, y, n, d, h);
    sum_tables.prepare_row(p, sums, sums, n, d, h);
    const ReaderTables &t = tables, &s = sum_tables;
    for (int64_t w = 0; w < p.in[2]; ++w) {
      const T* x_at = data<T>(x) + offset(x, n, 0, d, h, w);
      T* to = data<T>(dx) + offset(dx, n, 0, d, h, w);
      for (int64_t next = 0; next < p.c; next += kLanes) {
        const int64_t c = lesser(next, p.c - kLanes);  // the last vector overlaps the one before
        const V element = load_vec(x_at + c);
        V sum{};
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t k = t.begin[w]; k < t.begin[w + 1]; ++k) {
            const int64_t r = t.window[k];
            sum = sum + stochastic_share(load_vec(data<T>(dy) + t.row_dy[i] + r * dy.stride[kW] + c), element,
                                         load_vec(data<T>(y) + t.row_offsets[i] + r * y.stride[kW] + c),
                                         load_vec(data<A>(sums) + s.row_dy[i] + r * sums.stride[kW] + c));
          }
        store_vec(to + c, where_positive(element, sum));
      }
    }
  }

  bool run(int64_t begin, int64_t end) {
    if (!carve_scratch(this, p)) return false;
    tables.prepare(p);
    const int64_t rows = p.in[0] * p.in[1];
    for (int64_t i = begin; i < end; ++i) row(i / rows, i % rows / p.in[1], i % p.in[1]);
    return true;
  }
};

template <typename T>
struct RowGradient {
  using A = pool_accumulate_t<T>;
  using V = Vec<A>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &dy, &x, &y, &sums, &dx;
  int64_t windows, pitch;  // windows of a row, in whole vectors; positions of a phase

  A* elements = nullptr;  // stride x pitch
  A* gradient = nullptr;  // stride x pitch
  A* dy_row = nullptr;    // windows each; beyond the last one dy = 0, so that whole vectors may be added
  A* y_row = nullptr;
  A* sum_row = nullptr;

  void carve(Carver& c, const PoolProblem& problem) {
    c.take(&elements, problem.stride[2] * pitch);
    c.take(&gradient, problem.stride[2] * pitch);
    c.take(&dy_row, windows);
    c.take(&y_row, windows);
    c.take(&sum_row, windows);
  }

  template <typename E>
  CONVKIT_INLINE void stage(const TensorView& t, int64_t plane, int64_t o, int64_t q, A* to) const {
    stage_row(data<E>(t) + plane_offset(p, t, plane) + offset(t, 0, 0, o, q, 0), unit_stride(t, kW) ? 1 : t.stride[kW],
              p.out[2], 0, 1, 1, 0, to);
  }

  // Adds what the windows of output row (o, q) give to the elements they read.
  void add_row(int64_t plane, int64_t o, int64_t q) {
    stage<T>(dy, plane, o, q, dy_row);
    stage<T>(y, plane, o, q, y_row);
    stage<A>(sums, plane, o, q, sum_row);
    const A *dys = dy_row, *ys = y_row, *ss = sum_row;
    for (int64_t t = p.kernel[2] - 1; t >= 0; --t) {  // the windows that read an element then come in order
      const int64_t at = staged_place(t * p.dilation[2], p.stride[2], pitch);
      const A* from = elements + at;
      A* to = gradient + at;
      for (int64_t r = 0; r < windows; r += kLanes)
        store_vec(to + r, load_vec(to + r) + stochastic_share(load_vec(dys + r), load_vec(from + r), load_vec(ys + r),
                                                              load_vec(ss + r)));
    }
  }

  void row(int64_t plane, int64_t d, int64_t h) {
    const int64_t staged = p.stride[2] * pitch, before = p.pad_before[2];
    A *xs = elements, *gs = gradient;
    for (int64_t i = 0; i < staged; i += kLanes) store_vec(gs + i, V{});
    stage_row(data<T>(x) + plane_offset(p, x, plane) + offset(x, 0, 0, d, h, 0), unit_stride(x, kW) ? 1 : x.stride[kW],
              p.in[2], before, p.stride[2], p.stride[2], pitch, xs);
    for_readers(p, 0, d,
                [&](int64_t o, int64_t) { for_readers(p, 1, h, [&](int64_t q, int64_t) { add_row(plane, o, q); }); });
    for (int64_t i = 0; i < staged; i += kLanes) store_vec(gs + i, where_positive(load_vec(xs + i), load_vec(gs + i)));
    unstage_row(gradient, pitch, p.stride[2], before, p.in[2],
                data<T>(dx) + plane_offset(p, dx, plane) + offset(dx, 0, 0, d, h, 0),
                unit_stride(dx, kW) ? 1 : dx.stride[kW]);
  }

  bool run(int64_t begin, int64_t end) {
    if (!carve_scratch(this, p)) return false;
    for (int64_t i = 0; i < p.stride[2] * pitch; i += kLanes) store_vec(elements + i, V{});
    for (int64_t i = 0; i < windows; i += kLanes) {
      store_vec(dy_row + i, V{});
      store_vec(y_row + i, V{});
      store_vec(sum_row + i, splat<A>(A{1}));
    }
    const int64_t rows = p.in[0] * p.in[1];
    for (int64_t i = begin; i < end; ++i) row(i / rows, i % rows / p.in[1], i % p.in[1]);
    return true;
  }
};

template <typename T>
Status gradient_of_mean(const PoolProblem& p, const TensorView& dy, const TensorView& x, const TensorView& y,
                        const TensorView& sums, const TensorView& dx) {
  constexpr int64_t lanes = Lanes<pool_accumulate_t<T>>::count;
  const bool channels = channel_vectors(dy, lanes) && channel_vectors(x, lanes) && channel_vectors(y, lanes) &&
                        channel_vectors(sums, lanes) && channel_vectors(dx, lanes);
  const int64_t row_elements = p.in[2] * ceil_div(volume(p.kernel), volume(p.stride));
  Failure failure;
  if (channels) {
    for_units(p.n * p.in[0] * p.in[1], p.c * row_elements, [&](int64_t begin, int64_t end) {
      ChannelGradient<T> task{p, dy, x, y, sums, dx, {}, {}};
      if (!task.run(begin, end)) failure.raise();
    });
    return failure.status();
  }
  // A phase holds the elements of the row behind its padding, and what the last tap of the last window may touch.
  const int64_t windows = round_up(p.out[2], lanes), reach = (p.kernel[2] - 1) * p.dilation[2];
  const int64_t pitch =
      round_up(greater(windows + reach / p.stride[2], ceil_div(p.pad_before[2] + p.in[2], p.stride[2])) + 1, lanes);
  for_units(p.n * p.c * p.in[0] * p.in[1], row_elements, [&](int64_t begin, int64_t end) {
    RowGradient<T> task{p, dy, x, y, sums, dx, windows, pitch};
    if (!task.run(begin, end)) failure.raise();
  });
  return failure.status();
}

}  // namespace

Status stochastic_mean_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& x, const TensorView& y,
                           const TensorView& sums, const TensorView& dx) {
  Status status = stochastic_sum(p, x, sums);
  if (!status.ok()) return status;
  visit_floating(dy.dtype,
                 [&](auto t) { status = gradient_of_mean<typename decltype(t)::type>(p, dy, x, y, sums, dx); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
