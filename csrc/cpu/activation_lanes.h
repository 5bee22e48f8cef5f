// core/activation.h, one vector at a time.
#pragma once

#include "core/activation.h"
#include "cpu/simd.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Those with an elementary function (activation_lanes.cpp): act(v), and dz act'(v).
vector_t<float> activate_curved(Activation kind, double alpha, vector_t<float> v);
vector_t<float> curved_gradient(Activation kind, double alpha, vector_t<float> v, vector_t<float> dz);
vector_t<double> activate_curved(Activation kind, double alpha, vector_t<double> v);
vector_t<double> curved_gradient(Activation kind, double alpha, vector_t<double> v, vector_t<double> dz);

// Activations as types, so that loops are made for the commonest ones.
struct Identity {
  static constexpr bool kReadsValue = false;  // whether the gradient depends on v
  template <typename V>
  CONVKIT_INLINE V apply(V v) const {
    return v;
  }
  template <typename V>
  CONVKIT_INLINE V gradient(V, V dz) const {
    return dz;
  }
};

struct Relu {
  static constexpr bool kReadsValue = true;
  template <typename V>
  CONVKIT_INLINE V apply(V v) const {
    return v < 0 ? V{} : v;  // keeps NaN
  }
  template <typename V>
  CONVKIT_INLINE V gradient(V v, V dz) const {
    return v <= 0 ? V{} : dz;
  }
};

struct AnyActivation {
  static constexpr bool kReadsValue = true;
  Activation kind;
  double alpha;
  template <typename V>
  CONVKIT_INLINE V apply(V v) const {
    switch (kind) {
      case Activation::kIdentity: return v;
      case Activation::kRelu: return Relu{}.apply(v);
      case Activation::kLeakyRelu: return v < 0 ? v * static_cast<decltype(v[0] + v[0])>(alpha) : v;
      default: return activate_curved(kind, alpha, v);
    }
  }
  template <typename V>
  CONVKIT_INLINE V gradient(V v, V dz) const {
    switch (kind) {
      case Activation::kIdentity: return dz;
      case Activation::kRelu: return Relu{}.gradient(v, dz);
      case Activation::kLeakyRelu: return v > 0 ? dz : dz * static_cast<decltype(v[0] + v[0])>(alpha);
      default: return curved_gradient(kind, alpha, v, dz);
    }
  }
};

// Calls f with the activation as one of these types.
template <typename F>
CONVKIT_INLINE void visit_activation(Activation kind, double alpha, const F& f) {
  if (kind == Activation::kIdentity) return f(Identity{});
  if (kind == Activation::kRelu) return f(Relu{});
  f(AnyActivation{kind, alpha});
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
