// bn_act_bwd_reduce: the sums over each channel that the gradient of bn_act needs.
//
// Computes  dbias[c] = sum g, dweight[c] = invstd sum g (x - mean), with g = dz act'(v) and v computed from x again;
//           g too, where a tensor is given for it (bn_act_bwd_sums).
// Layout    any strides; vectors run along C where channels of x are neighbours, else along positions.
// Mapping   a task is a share of the positions of all channels, or of the images of some channels; shares follow from
//           the sizes alone.
// Memory    each tensor once. At most 256 terms per lane are added in the accumulate type, their sums and those of the
//           shares in double, in order; so the error does not grow with the tensor.
#include <type_traits>

#include "cpu/activation_lanes.h"
#include "cpu/bn_kernels.h"
#include "cpu/bn_walk.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr int kTensors = 4;

// What a term needs: x, dz, the residual, and where g goes (if there is none of them, x again).
template <typename T, typename Act>
struct Terms {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  const TensorView* tensors[kTensors];
  bool residual, keeps;
  const Act& act;

  // g and g (x - mean) of n lanes; 0 in the others.
  template <bool kDense>
  CONVKIT_INLINE void add(const NormVectors<A>& v, T* const (&p)[kTensors], const int64_t (&lane)[kTensors], int n,
                          V* sum, V* product) const {
    const V centred = load_run<kDense>(p[0], lane[0], n) - v.mean;
    V u = centred * v.scale + v.bias;
    if (Act::kReadsValue && residual) u += load_run<kDense>(p[2], lane[2], n);
    const V g = act.gradient(u, load_run<kDense>(p[1], lane[1], n));  // a lane that is not there has dz = 0
    if (keeps) store_run<kDense>(p[3], lane[3], g, n);
    *sum += g;
    *product += g * centred;
  }
};

// The sums of positions [begin, end) of all channels, which are vectors' lanes.
template <bool kDense, typename T, typename Act>
void sum_pixels(const Terms<T, Act>& terms, const Walk<kTensors>& walk, const NormArrays<accumulate_t<T>>& arrays,
                int64_t begin, int64_t end, accumulate_t<T>* sums, double* totals) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = lanes_of<T>();
  const int64_t channels = terms.tensors[0]->size[kC], pitch = ceil_of(channels, lanes) * lanes;
  const int64_t most = clamped(kPixelBlock / channels, 8, kRunTerms);
  int64_t lane[kTensors], added = 0;
  for (int j = 0; j < kTensors; ++j) lane[j] = kDense ? 1 : terms.tensors[j]->stride[kC];
  for (int64_t i = 0; i < 2 * pitch; ++i) sums[i] = 0;
  for (int64_t c = 0; c < 2 * channels; ++c) totals[c] = 0;
  const auto set_aside = [&] {
    for (int64_t c = 0; c < channels; ++c) {
      totals[c] += sums[c];
      totals[channels + c] += sums[pitch + c];
      sums[c] = sums[pitch + c] = 0;
    }
    added = 0;
  };
  walk.visit(begin, end, most, [&](const int64_t (&offset)[kTensors], int64_t count) {
    for_columns<lanes>(channels, [&](int64_t c, auto columns, int n) {
      NormVectors<A> v[columns.value];
      V sum[columns.value], product[columns.value];
      for (int k = 0; k < columns.value; ++k) {
        v[k] = NormVectors<A>::of_channels(arrays, c + k * lanes);
        sum[k] = load_vector<A>(sums + c + k * lanes);
        product[k] = load_vector<A>(sums + pitch + c + k * lanes);
      }
      for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < columns.value; ++k) {
          T* p[kTensors];
          for (int j = 0; j < kTensors; ++j)
            p[j] = data<T>(*terms.tensors[j]) + offset[j] + i * walk.step[j] + (c + k * lanes) * lane[j];
          terms.template add<kDense>(v[k], p, lane, n, sum + k, product + k);
        }
      for (int k = 0; k < columns.value; ++k) {
        store_vector<A>(sums + c + k * lanes, sum[k]);
        store_vector<A>(sums + pitch + c + k * lanes, product[k]);
      }
    });
    if ((added += count) >= kRunTerms) set_aside();
  });
  set_aside();
}

// The sums of one channel of images [begin, end): totals[0] and totals[1].
template <bool kDense, typename T, typename Act>
void sum_planes(const Terms<T, Act>& terms, const Walk<kTensors>& walk, const NormArrays<accumulate_t<T>>& arrays,
                int64_t c, int64_t begin, int64_t end, double* totals) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = lanes_of<T>();
  const NormVectors<A> v = NormVectors<A>::of_channel(arrays, c);
  V sum[2] = {}, product[2] = {};
  int64_t added = 0;
  totals[0] = totals[1] = 0;
  const auto set_aside = [&] {
    totals[0] += sum_lanes<A>(sum[0] + sum[1]);
    totals[1] += sum_lanes<A>(product[0] + product[1]);
    sum[0] = sum[1] = product[0] = product[1] = V{};
    added = 0;
  };
  for (int64_t image = begin; image < end; ++image)
    walk.visit(0, walk.positions(), kRunTerms * lanes, [&](const int64_t (&offset)[kTensors], int64_t count) {
      T* p[kTensors];
      for (int j = 0; j < kTensors; ++j) {
        const TensorView& t = *terms.tensors[j];
        p[j] = data<T>(t) + image * t.stride[kN] + c * t.stride[kC] + offset[j];
      }
      const auto next = [&](int which, int n) {
        terms.template add<kDense>(v, p, walk.step, n, sum + which, product + which);
        for (int j = 0; j < kTensors; ++j) p[j] += n * (kDense ? 1 : walk.step[j]);
      };
      int64_t i = 0;
      for (; i + 2 * lanes <= count; i += 2 * lanes) {
        next(0, lanes);
        next(1, lanes);
      }
      for_vectors<lanes>(count - i, [&](int64_t, int n) { next(0, n); });
      if ((added += count) >= kRunTerms * lanes) set_aside();
    });
  set_aside();
}

template <typename T, typename Act>
Status reduce(const Terms<T, Act>& terms, const NormArrays<accumulate_t<T>>& arrays, const BatchNorm& b,
              accumulate_t<T>* dbias, accumulate_t<T>* dweight) {
  using A = accumulate_t<T>;
  const TensorView& x = *terms.tensors[0];
  const bool along_channels = channels_are_neighbours(x);
  const Walk<kTensors> walk(terms.tensors, along_channels);
  const Shares shares = cut(x, along_channels);
  double* partial = static_cast<double*>(thread_scratch(2, static_cast<size_t>(shares.count * shares.pitch * 2) * 8));
  if (partial == nullptr) return {"bn_act_bwd_reduce ran out of memory"};
  bool failed = false;
  if (along_channels) {
    bool dense = true;
    for (const TensorView* t : terms.tensors) dense = dense && t->stride[kC] == 1;
    const size_t room = static_cast<size_t>(2 * (x.size[kC] + lanes_of<T>())) * sizeof(A);
    parallel_for(shares.count, [&](int64_t share) {
      A* sums = static_cast<A*>(thread_scratch(0, room));
      if (sums == nullptr) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      (dense ? sum_pixels<true, T, Act> : sum_pixels<false, T, Act>)(terms, walk, arrays, shares.begin(share),
                                                                     shares.begin(share + 1), sums,
                                                                     partial + share * 2 * shares.pitch);
    });
  } else {
    const bool dense = all_ones(walk.step);
    parallel_for(shares.count * shares.groups, [&](int64_t task) {
      const int64_t share = task / shares.groups, first = task % shares.groups * shares.group;
      for (int64_t c = first; c < least(first + shares.group, x.size[kC]); ++c) {
        double totals[2];
        (dense ? sum_planes<true, T, Act> : sum_planes<false, T, Act>)(terms, walk, arrays, c, shares.begin(share),
                                                                       shares.begin(share + 1), totals);
        partial[share * 2 * shares.pitch + c] = totals[0];
        partial[(share * 2 + 1) * shares.pitch + c] = totals[1];
      }
    });
  }
  for (int64_t c = 0; c < x.size[kC]; ++c) {
    double sum = 0, product = 0;
    for (int64_t share = 0; share < shares.count; ++share) {
      sum += partial[share * 2 * shares.pitch + c];
      product += partial[(share * 2 + 1) * shares.pitch + c];
    }
    dbias[c] = static_cast<A>(sum);
    dweight[c] = static_cast<A>(product * static_cast<const A*>(b.invstd)[c]);
  }
  return failed ? Status{"bn_act_bwd_reduce ran out of memory"} : kOk;
}

}  // namespace

Status bn_act_bwd_sums(const BatchNorm& b, const TensorView& dz, const TensorView& x, const TensorView& g, void* dbias,
                       void* dweight) {
  Status status{"bn_act_bwd_reduce has no kernel for this dtype"};
  visit_floating(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using A = accumulate_t<T>;
    NormArrays<A> arrays;
    status = arrays.fill(b, nullptr, x.size[kC]) ? kOk : Status{"bn_act_bwd_reduce ran out of memory"};
    if (!status.ok()) return;
    visit_activation(b.activation, b.alpha, [&](const auto& act) {
      const bool residual = b.residual.data != nullptr, keeps = g.data != nullptr;
      const Terms<T, std::decay_t<decltype(act)>> terms{
          {&x, &dz, residual ? &b.residual : &x, keeps ? &g : &x}, residual, keeps, act};
      status = reduce(terms, arrays, b, static_cast<A*>(dbias), static_cast<A*>(dweight));
    });
  });
  return status;
}

Status bn_act_bwd_reduce(const BatchNorm& b, const TensorView& dz, const TensorView& x, void* dbias, void* dweight) {
  return bn_act_bwd_sums(b, dz, x, {}, dbias, dweight);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
