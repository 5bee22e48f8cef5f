// What happens to a convolution's result before it is stored: act(value * scale[k] + bias[k] + residual).
#pragma once

#include "core/activation.h"
#include "core/tensor_view.h"

namespace convkit {

struct Epilogue {
  const void* bias;     // per result channel, in the result's dtype, contiguous; nullptr: none
  const void* scale;    // likewise
  TensorView residual;  // result's shape and dtype; data == nullptr: none
  Activation activation;
  double alpha;  // slope of leaky_relu, alpha of elu
};

}  // namespace convkit
