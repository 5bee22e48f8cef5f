#include "cpu/kernels.h"
namespace convkit {
inline namespace CONVKIT_ISA {
Status conv_wgrad_gemm(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  return conv_wgrad_direct(p, dy, x, dw);
}
}  // namespace CONVKIT_ISA
}  // namespace convkit
