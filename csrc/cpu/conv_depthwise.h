// Shared by the depthwise convolution files: which tensors which variant reads, and the variants themselves.
#pragma once

#include "cpu/kernels.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// One group per input channel; filters k = c * multiplier .. belong to channel c.
CONVKIT_INLINE int64_t multiplier(const ConvProblem& p) { return p.k / p.c; }

// fprop and dgrad along W, for any strides. `source` is x (fprop) or dy (dgrad), `result` y or dx.
Status depthwise_planar(const ConvProblem&, bool adjoint, const TensorView& source, const TensorView& w,
                        const Epilogue&, const TensorView& result);

}  // namespace CONVKIT_ISA
}  // namespace convkit
