// conv_bgrad: the bias gradient.
//
// Computes  db[k] = sum over n, o, q, r of dy[n,k,o,q,r].
// Layout    any strides; vectors run along C where channels are neighbours, else along W (or the whole plane).
// Mapping   a task is (channels, share of the images, or of rows in pieces); shares follow from the sizes alone.
// Memory    floating types: runs of less than 2048 elements per lane are summed in the accumulate type, the runs and
//           shares in float64, in order; so the error does not grow with the tensor. Integer and complex types: one sum
//           per channel, of complex numbers in double precision.
#include "cpu/conv_kernels.h"
#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int64_t kRun = 1024;         // vectors added to one accumulator before it is set aside
constexpr int64_t kShare = 64 * 1024;  // elements that are worth a task

// Sum of `count` elements `stride` apart, lane-parallel in four accumulators.
template <typename T>
double sum_row(const T* p, int64_t stride, int64_t count) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = Vector<A>::lanes;
  double total = 0;
  if (stride != 1) {
    for (int64_t i = 0; i < count;) {
      A sum{};
      for (int64_t end = i + kRun < count ? i + kRun : count; i < end; ++i) sum += load(p + i * stride);
      total += sum;
    }
    return total;
  }
  for (int64_t i = 0; i < count;) {
    V sum[4] = {};
    int64_t end = i + kRun * lanes < count ? i + kRun * lanes : count;
    for (; i + 4 * lanes <= end; i += 4 * lanes)
      for (int j = 0; j < 4; ++j) sum[j] += load_vector<T>(p + i + j * lanes);
    for (; i + lanes <= end; i += lanes) sum[0] += load_vector<T>(p + i);
    if (i < end) {
      sum[1] += load_partial<T>(p + i, static_cast<int>(end - i));
      i = end;
    }
    total += sum_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  return total;
}

// A task sums some images of one channel.
template <typename T>
Status sum_planes(const TensorView& dy, const TensorView& db) {
  const int64_t n = dy.size[kN], k = dy.size[kC], d = dy.size[kD], h = dy.size[kH], w = dy.size[kW];
  const bool rows_meet = h == 1 || dy.stride[kH] == w * dy.stride[kW];
  const bool planes_meet = rows_meet && (d == 1 || dy.stride[kD] == h * w * dy.stride[kW]);
  int64_t shares = n * d * h * w / kShare + 1;
  if (shares > n) shares = n > 0 ? n : 1;
  double* partial = static_cast<double*>(thread_scratch(3, static_cast<size_t>(shares * k) * sizeof(double)));
  if (partial == nullptr) return {"conv_bgrad ran out of memory"};
  // A share of small planes is little work: a task takes several channels.
  const int64_t group = kShare / (n * d * h * w / shares + 1) + 1, groups = (k + group - 1) / group;
  parallel_for(shares * groups, [&](int64_t task) {
    const int64_t share = task / groups, first = task % groups * group;
    for (int64_t c = first; c < first + group && c < k; ++c) {
      double sum = 0;
      for (int64_t i = share * n / shares; i < (share + 1) * n / shares; ++i) {
        const T* image = data<T>(dy) + offset(dy, i, c, 0, 0, 0);
        if (planes_meet) {
          sum += sum_row<T>(image, dy.stride[kW], d * h * w);
          continue;
        }
        for (int64_t z = 0; z < d; ++z)
          for (int64_t y = 0; y < h; ++y)
            sum += sum_row<T>(image + z * dy.stride[kD] + y * dy.stride[kH], dy.stride[kW], w);
      }
      partial[share * k + c] = sum;
    }
  });
  for (int64_t c = 0; c < k; ++c) {
    double sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += partial[share * k + c];
    store(data<T>(db) + c * db.stride[kC], static_cast<accumulate_t<T>>(sum));
  }
  return kOk;
}

// A task sums some rows, in pieces of kRun pixels where they are longer, of all channels, eight vectors of channels at
// a time.
template <typename T>
Status sum_channels(const TensorView& dy, const TensorView& db) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = Vector<A>::lanes, kVectors = 8;
  const int64_t k = dy.size[kC], h = dy.size[kH], d = dy.size[kD], w = dy.size[kW], rows = dy.size[kN] * d * h;
  const int64_t pieces = (w + kRun - 1) / kRun, units = rows * pieces;
  int64_t shares = rows * w * k / kShare + 1;
  if (shares > units) shares = units > 0 ? units : 1;
  double* partial = static_cast<double*>(thread_scratch(3, static_cast<size_t>(shares * k) * sizeof(double)));
  if (partial == nullptr) return {"conv_bgrad ran out of memory"};
  parallel_for(shares, [&](int64_t share) {
    double* total = partial + share * k;
    for (int64_t c = 0; c < k; ++c) total[c] = 0;
    const int64_t first = share * units / shares, last = (share + 1) * units / shares;
    for (int64_t c = 0; c < k; c += kVectors * lanes) {
      const int64_t left = k - c;
      const int full = left >= kVectors * lanes ? kVectors : static_cast<int>(left / lanes);
      const int rest = full < kVectors ? static_cast<int>(left - full * lanes) : 0;
      for (int64_t unit = first; unit < last;) {
        V sum[kVectors] = {}, tail{};
        for (int64_t run = 0; unit < last && run < kRun; ++unit) {
          const int64_t row = unit / pieces, from = unit % pieces * kRun, count = w - from < kRun ? w - from : kRun;
          const T* p = data<T>(dy) + offset(dy, row / (d * h), c, row / h % d, row % h, from);
          run += count;
          if (full == kVectors) {
            for (int64_t x = 0; x < count; ++x, p += dy.stride[kW])
#pragma GCC unroll 8
              for (int j = 0; j < kVectors; ++j) sum[j] += load_vector<T>(p + j * lanes);
          } else {
            for (int64_t x = 0; x < count; ++x, p += dy.stride[kW]) {
#pragma GCC unroll 8
              for (int j = 0; j < kVectors; ++j)
                if (j < full) sum[j] += load_vector<T>(p + j * lanes);
              if (rest > 0) tail += load_partial<T>(p + full * lanes, rest);
            }
          }
        }
        for (int j = 0; j < full; ++j)
          for (int i = 0; i < lanes; ++i) total[c + j * lanes + i] += sum[j][i];
        for (int i = 0; i < rest; ++i) total[c + full * lanes + i] += tail[i];
      }
    }
  });
  for (int64_t c = 0; c < k; ++c) {
    double sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += partial[share * k + c];
    store(data<T>(db) + c * db.stride[kC], static_cast<A>(sum));
  }
  return kOk;
}

// What sums of T are held in, and the way there and back.
template <typename T>
struct SumOf {
  using A = accumulate_t<T>;
  using Sum = A;
  static Sum widened(A v) { return v; }
  static A rounded(Sum v) { return v; }
};
template <>
struct SumOf<complex<float>> {
  using Sum = complex<double>;
  static Sum widened(complex<float> v) { return {v.re, v.im}; }
  static complex<float> rounded(Sum v) { return {static_cast<float>(v.re), static_cast<float>(v.im)}; }
};

// Any element type, one element after the other.
template <typename T>
void sum_elements(const TensorView& dy, const TensorView& db) {
  using Sum = typename SumOf<T>::Sum;
  parallel_for(dy.size[kC], [&](int64_t k) {
    Sum sum{};
    for (int64_t n = 0; n < dy.size[kN]; ++n)
      for (int64_t d = 0; d < dy.size[kD]; ++d)
        for (int64_t h = 0; h < dy.size[kH]; ++h)
          for (int64_t w = 0; w < dy.size[kW]; ++w)
            sum = static_cast<Sum>(sum + SumOf<T>::widened(load(data<T>(dy) + offset(dy, n, k, d, h, w))));
    store(data<T>(db) + k * db.stride[kC], SumOf<T>::rounded(sum));
  });
}

}  // namespace

Status conv_bgrad(const TensorView& dy, const TensorView& db) {
  Status status = kOk;
  const auto floating = [&](auto t) {
    using T = typename decltype(t)::type;
    const bool channels = dy.stride[kC] == 1 && dy.size[kC] > 1 && dy.stride[kW] != 1;
    status = channels ? sum_channels<T>(dy, db) : sum_planes<T>(dy, db);
  };
  const auto element = [&](auto t) { sum_elements<typename decltype(t)::type>(dy, db); };
  if (visit_floating(dy.dtype, floating)) return status;
  if (visit_integral(dy.dtype, element)) return kOk;
  if (dy.dtype == DType::kComplex64) return element(Type<complex<float>>{}), kOk;
  if (dy.dtype == DType::kComplex128) return element(Type<complex<double>>{}), kOk;
  return {"conv_bgrad has no kernel for this dtype"};
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
