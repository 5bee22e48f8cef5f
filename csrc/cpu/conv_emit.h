// The epilogue of core/epilogue.h, one vector at a time.
#pragma once

#include "core/conv_epilogue.h"
#include "cpu/activation_lanes.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// act(v * scale + bias + residual) for `n` lanes that lie dst_stride (residual: res_stride) apart.
template <typename T>
struct Emitter {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  const Epilogue& e;

  // Scale and bias of one result channel, the same in all lanes.
  CONVKIT_INLINE V scale_of(int64_t k) const {
    return broadcast<A>(e.scale == nullptr ? A(1) : load(static_cast<const T*>(e.scale) + k));
  }
  CONVKIT_INLINE V bias_of(int64_t k) const {
    return broadcast<A>(e.bias == nullptr ? A(0) : load(static_cast<const T*>(e.bias) + k));
  }
  // Those of n consecutive channels.
  CONVKIT_INLINE V scales_of(int64_t k, int n) const {
    return e.scale == nullptr ? broadcast<A>(A(1)) : load_partial<T>(static_cast<const T*>(e.scale) + k, n);
  }
  CONVKIT_INLINE V biases_of(int64_t k, int n) const {
    return e.bias == nullptr ? V{} : load_partial<T>(static_cast<const T*>(e.bias) + k, n);
  }

  CONVKIT_INLINE V activated(V v) const { return AnyActivation{e.activation, e.alpha}.apply(v); }

  // `count` vectors, row_stride apart, of n elements side by side; there must be no residual.
  CONVKIT_INLINE void emit_rows(const V* v, int count, V scale, V bias, T* dst, int64_t row_stride, int n) const {
    const bool identity = e.activation == Activation::kIdentity;
    if (n == Vector<A>::lanes) {
      for (int i = 0; i < count; ++i, dst += row_stride) {
        const V u = v[i] * scale + bias;
        store_vector<T>(dst, identity ? u : activated(u));
      }
    } else {
      for (int i = 0; i < count; ++i, dst += row_stride) {
        const V u = v[i] * scale + bias;
        store_partial<T>(dst, identity ? u : activated(u), n);
      }
    }
  }

  CONVKIT_INLINE void emit(V v, V scale, V bias, T* dst, int64_t dst_stride, const T* res, int64_t res_stride,
                           int n) const {
    constexpr int lanes = Vector<A>::lanes;
    v = v * scale + bias;
    if (res != nullptr) v += res_stride == 1 ? load_partial_or_full(res, n) : load_strided<T>(res, res_stride, n);
    v = activated(v);
    if (dst_stride != 1) return store_strided<T>(dst, dst_stride, v, n);
    if (n == lanes) return store_vector<T>(dst, v);
    store_partial<T>(dst, v, n);
  }

 private:
  CONVKIT_INLINE static V load_partial_or_full(const T* p, int n) {
    return n == Vector<A>::lanes ? load_vector<T>(p) : load_partial<T>(p, n);
  }
};

// Residual elements beside a result's; nullptr: none.
template <typename T>
CONVKIT_INLINE const T* residual_at(const Epilogue& e, int64_t n, int64_t k, int64_t d, int64_t h, int64_t w) {
  return e.residual.data == nullptr ? nullptr : data<T>(e.residual) + offset(e.residual, n, k, d, h, w);
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
