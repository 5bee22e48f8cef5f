// The pooling template along channels, and its adjoint: channels_last tensors, vectors of channels.
//
// Computes  y[o] = policy over the taps of x;  dx[i] = sum of dy over the windows that read i (select, average)
// Layout    channels of unit stride in every tensor, at least one vector of them
// Mapping   a unit is one row of the result; within it, pixel by pixel, blocks of up to kBlock vectors of channels.
//           The last vector overlaps the one before it instead of needing a tail.
// Memory    a block stays in registers over the whole window; neighbouring windows meet in the cache. A large gradient
//           is stored past the caches (stream.h).
#pragma once

#include "cpu/pool_tasks.h"
#include "cpu/stream.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kBlock = 4;

// Calls f(Size<b>, c) so that vectors [c, c + b * lanes) cover all channels; the last ones may overlap.
template <int kCount>
struct Size {
  static constexpr int value = kCount;
};
template <typename F>
CONVKIT_INLINE void for_channel_blocks(int64_t channels, int64_t lanes, const F& f) {
  int64_t c = 0;
  for (; c + kBlock * lanes <= channels; c += kBlock * lanes) f(Size<kBlock>{}, c);
  for (; c + 2 * lanes <= channels; c += 2 * lanes) f(Size<2>{}, c);
  if (c + lanes <= channels) f(Size<1>{}, c), c += lanes;
  if (c < channels) f(Size<1>{}, channels - lanes);
}

CONVKIT_INLINE bool channel_vectors(const TensorView& t, int64_t lanes) {
  return t.data == nullptr || (t.stride[kC] == 1 && t.size[kC] >= lanes);
}

template <typename Policy, typename T, bool kOffsets>
struct ChannelPool {
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &x, &y, &offsets;
  Policy policy;

  // One window, channels [c, c + kVectors * lanes).
  template <int kVectors>
  CONVKIT_INLINE void window(const T* from, T* to, int64_t taps_to, const TapRange& d, const TapRange& h,
                             const TapRange& w, int64_t divisor) {
    V v[kVectors];
    K at[kVectors];
    const bool empty = d.begin == d.end || h.begin == h.end || w.begin == w.end;
    const int64_t first = empty ? 0 : (d.begin * p.kernel[1] + h.begin) * p.kernel[2] + w.begin;
    for (int b = 0; b < kVectors; ++b) {
      v[b] = splat<A>(pad_value<Policy, T>());
      if constexpr (kOffsets) at[b] = splat<I>(static_cast<I>(first));
    }
    const int64_t step = p.dilation[2] * x.stride[kW];
    for (int64_t td = d.begin; td < d.end; ++td)
      for (int64_t th = h.begin; th < h.end; ++th) {
        const T* row = from + (d.start + td * p.dilation[0]) * x.stride[kD] +
                       (h.start + th * p.dilation[1]) * x.stride[kH] + w.start * x.stride[kW];
        for (int64_t tw = w.begin; tw < w.end; ++tw) {
          const T* px = row + tw * step;
          if constexpr (kOffsets) {
            const K tap = splat<I>(static_cast<I>((td * p.kernel[1] + th) * p.kernel[2] + tw));
            for (int b = 0; b < kVectors; ++b)
              Policy::choose(v[b], at[b], policy.enter(load_vec(px + b * kLanes)), tap);
          } else {
            for (int b = 0; b < kVectors; ++b) Policy::reduce(v[b], policy.enter(load_vec(px + b * kLanes)));
          }
        }
      }
    const V by = splat<A>(static_cast<A>(divisor));
    for (int b = 0; b < kVectors; ++b) {
      if constexpr (Policy::kDivides) v[b] = v[b] / by;
      store_vec(to + b * kLanes, policy.finish(v[b]));
      if constexpr (kOffsets) store_taps(offsets.data, taps_to + b * kLanes, dtype_bytes(offsets.dtype), at[b], kLanes);
    }
  }

  void row(int64_t n, int64_t o, int64_t q) {
    const TapRange d = tap_range(p, 0, o), h = tap_range(p, 1, q);
    const int64_t row_divisor = Policy::kDivides ? divisor_taps(p, 0, o) * divisor_taps(p, 1, q) : 1;
    for (int64_t r = 0; r < p.out[2]; ++r) {
      const TapRange w = tap_range(p, 2, r);
      const int64_t divisor = Policy::kDivides ? row_divisor * divisor_taps(p, 2, r) : 1;
      const T* from = data<T>(x) + n * x.stride[kN];
      T* to = data<T>(y) + offset(y, n, 0, o, q, r);
      const int64_t taps_to = kOffsets ? offset(offsets, n, 0, o, q, r) : 0;
      for_channel_blocks(p.c, kLanes, [&](auto size, int64_t c) CONVKIT_INLINE_LAMBDA {
        window<decltype(size)::value>(from + c, to + c, taps_to + c, d, h, w, divisor);
      });
    }
    policy.review(p, x, y, n, o, q);
  }
};

template <typename Policy, typename T, bool kOffsets>
bool channels_apply(const TensorView& x, const TensorView& y, const TensorView& offsets) {
  constexpr int64_t lanes = Lanes<pool_accumulate_t<T>>::count;
  return channel_vectors(x, lanes) && channel_vectors(y, lanes) && (!kOffsets || channel_vectors(offsets, lanes));
}

template <typename Policy, typename T, bool kOffsets>
Status pool_channels(const PoolProblem& p, const TensorView& x, const TensorView& y, const TensorView& offsets,
                     const Policy& policy = {}) {
  const int64_t rows = p.out[0] * p.out[1];
  for_units(p.n * rows, p.c * p.out[2] * window_step(p, 2) * window_step(p, 1), [&](int64_t begin, int64_t end) {
    ChannelPool<Policy, T, kOffsets> pool{p, x, y, offsets, policy};
    for (int64_t i = begin; i < end; ++i) pool.row(i / rows, i % rows / p.out[1], i % p.out[1]);
    pool.policy.done();
  });
  return kOk;
}

// The windows that read each position of a row, and the rows of windows that read the row: divisions happen once.
struct ReaderTables {
  int64_t* begin;  // readers of position w: entries [begin[w], begin[w + 1]) of the next three
  int64_t* window;
  int64_t* tap;
  int64_t* divisor;  // what w contributes to it
  int64_t* row_dy;   // readers of the current row: where they lie in dy and in offsets
  int64_t* row_offsets;
  int64_t* row_tap;
  int64_t* row_divisor;

  void carve(Carver& c, const PoolProblem& p) {
    int64_t most[3];
    for (int i = 0; i < 3; ++i) most[i] = most_covering(p, i);
    c.take(&begin, p.in[2] + 1);
    c.take(&window, p.in[2] * most[2]);
    c.take(&tap, p.in[2] * most[2]);
    c.take(&divisor, p.in[2] * most[2]);
    c.take(&row_dy, most[0] * most[1]);
    c.take(&row_offsets, most[0] * most[1]);
    c.take(&row_tap, most[0] * most[1]);
    c.take(&row_divisor, most[0] * most[1]);
  }

  void prepare(const PoolProblem& p) {
    int64_t count = 0;
    for (int64_t w = 0; w < p.in[2]; ++w) {
      begin[w] = count;
      for_readers(p, 2, w, [&](int64_t r, int64_t t) {
        window[count] = r;
        tap[count] = t;
        divisor[count++] = divisor_taps(p, 2, r);
      });
    }
    begin[p.in[2]] = count;
  }

  int64_t prepare_row(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, int64_t n, int64_t d,
                      int64_t h) {
    int64_t rows = 0;
    for_readers(p, 0, d, [&](int64_t o, int64_t td) {
      for_readers(p, 1, h, [&](int64_t q, int64_t th) {
        row_dy[rows] = offset(dy, n, 0, o, q, 0);
        row_offsets[rows] = offset(offsets, n, 0, o, q, 0);
        row_tap[rows] = (td * p.kernel[1] + th) * p.kernel[2];
        row_divisor[rows++] = divisor_taps(p, 0, o) * divisor_taps(p, 1, q);
      });
    });
    return rows;
  }
};

CONVKIT_INLINE bool all_equal(const int64_t* v, int64_t begin, int64_t end) {
  for (int64_t i = begin + 1; i < end; ++i)
    if (v[i] != v[begin]) return false;
  return true;
}

template <typename Policy, typename T>
struct ChannelGather {
  static constexpr bool kSelect = Policy::kSelect;
  using A = pool_accumulate_t<T>;
  using I = tap_t<A>;
  using V = Vec<A>;
  using K = Vec<I>;
  static constexpr int64_t kLanes = Lanes<A>::count;

  const PoolProblem& p;
  const TensorView &dy, &offsets, &dx;
  Policy policy;
  ReaderTables tables;
  bool streams = false;  // whether dx is stored past the caches: it is large, and whole vectors lie on their multiples

  // Channels [c, c + kVectors * lanes) of position w; one division at the end where all windows share the divisor.
  template <int kVectors>
  CONVKIT_INLINE void pixel(int64_t rows, bool even_rows, int64_t c, int64_t w, T* to, const T* x) {
    const ReaderTables& t = tables;
    const int64_t begin = t.begin[w], end = t.begin[w + 1], dy_step = dy.stride[kW], offset_step = offsets.stride[kW];
    const int64_t bytes = kSelect ? dtype_bytes(offsets.dtype) : 0;
    // Dividing early or late is not the same for whole numbers.
    const bool divide_late = !kSelect && IsFloating<A>::value && even_rows && all_equal(t.divisor, begin, end);
    V sum[kVectors];
    for (int b = 0; b < kVectors; ++b) sum[b] = V{};
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t k = begin; k < end; ++k) {
        const T* from = data<T>(dy) + t.row_dy[i] + t.window[k] * dy_step + c;
        // dy, weighted by what the policy makes of the tensor beside it
        const auto term = [&](int b) CONVKIT_INLINE_LAMBDA {
          const V v = load_vec(from + b * kLanes);
          if constexpr (Policy::kWeighs) {
            const T* beside = data<T>(offsets) + t.row_offsets[i] + t.window[k] * offset_step + c;
            return policy.weigh(v, load_vec(beside + b * kLanes));
          } else {
            return v;
          }
        };
        if constexpr (kSelect) {
          const K tap = splat<I>(static_cast<I>(t.row_tap[i] + t.tap[k]));
          const int64_t at = t.row_offsets[i] + t.window[k] * offset_step + c;
          for (int b = 0; b < kVectors; ++b) {
            const K chosen = load_taps<K>(offsets.data, at + b * kLanes, bytes, kLanes);
            sum[b] = sum[b] + (chosen == tap ? term(b) : V{});
          }
        } else if (divide_late) {
          for (int b = 0; b < kVectors; ++b) sum[b] = sum[b] + term(b);
        } else {
          const V by = splat<A>(static_cast<A>(t.row_divisor[i] * t.divisor[k]));
          for (int b = 0; b < kVectors; ++b) sum[b] = sum[b] + term(b) / by;
        }
      }
    const bool divide = divide_late && rows > 0 && begin < end;
    const V by = splat<A>(divide ? static_cast<A>(t.row_divisor[0] * t.divisor[begin]) : A{1});
    for (int b = 0; b < kVectors; ++b) {
      V v = divide ? sum[b] / by : sum[b];
      if constexpr (Policy::kWeighs) v = policy.apply(v, load_vec(x + c + b * kLanes));
      if constexpr (sizeof(T) == sizeof(A)) {
        if (streams) {
          stream_vec(to + c + b * kLanes, v);
          continue;
        }
      }
      store_vec(to + c + b * kLanes, v);
    }
  }

  bool run(int64_t first, int64_t last) {
    if (!carve_scratch(&tables, p)) return false;
    tables.prepare(p);
    const int64_t plane_rows = p.in[0] * p.in[1];
    for (int64_t i = first; i < last; ++i) {
      const int64_t n = i / plane_rows, d = i % plane_rows / p.in[1], h = i % p.in[1];
      const int64_t rows = tables.prepare_row(p, dy, offsets, n, d, h);
      const bool even_rows = all_equal(tables.row_divisor, 0, rows);
      for (int64_t w = 0; w < p.in[2]; ++w) {
        T* to = data<T>(dx) + offset(dx, n, 0, d, h, w);
        const T* x = nullptr;
        if constexpr (Policy::kWeighs) x = data<T>(*policy.x) + offset(*policy.x, n, 0, d, h, w);
        for_channel_blocks(p.c, kLanes, [&](auto size, int64_t c) CONVKIT_INLINE_LAMBDA {
          pixel<decltype(size)::value>(rows, even_rows, c, w, to, x);
        });
      }
    }
    if (streams) end_streams();
    policy.done();
    return true;
  }
};

template <typename T, bool kSelect>
bool channels_gather_apply(const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  constexpr int64_t lanes = Lanes<pool_accumulate_t<T>>::count;
  return channel_vectors(dy, lanes) && channel_vectors(dx, lanes) && (!kSelect || channel_vectors(offsets, lanes));
}

template <typename Policy, typename T>
Status gather_channels(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx,
                       const Policy& policy = {}) {
  Failure failure;
  for_units(p.n * p.in[0] * p.in[1], p.c * p.in[2], [&](int64_t begin, int64_t end) {
    ChannelGather<Policy, T> task{p, dy, offsets, dx, policy, {}, streaming_pays(dx) && streams_in_vectors(dx)};
    if (!task.run(begin, end)) failure.raise();
  });
  return failure.status();
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
