// Activations with an elementary function, a vector at a time: floats by cpu/elementary.h, doubles one by one.
#include "cpu/activation_lanes.h"

#include "cpu/elementary.h"

namespace convkit {
inline namespace CONVKIT_ISA {

Floats activate_curved(Activation kind, double alpha, Floats v) {
  switch (kind) {
    case Activation::kElu: return v < 0.0f ? exponential_less_one(v) * static_cast<float>(alpha) : v;
    case Activation::kSigmoid: return sigmoid(v);
    case Activation::kTanh: return hyperbolic_tangent(v);
    case Activation::kSilu: return v * sigmoid(v);
    case Activation::kGelu: return v * normal(v).below;
    default: return v;
  }
}

Floats curved_gradient(Activation kind, double alpha, Floats v, Floats dz) {
  switch (kind) {
    case Activation::kElu: return v > 0.0f ? dz : dz * (exponential(v) * static_cast<float>(alpha));
    case Activation::kSigmoid: {
      const Floats y = sigmoid(v);
      return dz * ((1.0f - y) * y);
    }
    case Activation::kTanh: {
      const Floats y = hyperbolic_tangent(v);
      return dz * (1.0f - y * y);
    }
    case Activation::kSilu: {
      const Floats y = sigmoid(v);
      return dz * (y * (1.0f + v * (1.0f - y)));
    }
    case Activation::kGelu: {
      const Normal n = normal(v);
      return dz * (n.below + v * n.density);
    }
    default: return dz;
  }
}

vector_t<double> activate_curved(Activation kind, double alpha, vector_t<double> v) {
  for (int i = 0; i < Vector<double>::lanes; ++i) v[i] = activate<double>(kind, alpha, v[i]);
  return v;
}

vector_t<double> curved_gradient(Activation kind, double alpha, vector_t<double> v, vector_t<double> dz) {
  for (int i = 0; i < Vector<double>::lanes; ++i) v[i] = activation_gradient<double>(kind, alpha, v[i], dz[i]);
  return v;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
