// conv_igemm: dgrad on tensor cores, as an implicit GEMM for each stride phase.
//
// Computes  dx[n,c,i] = epilogue(sum over the taps of i's phase and k of dy[n,k,...] w[k,c,tap]): positions of one
//           phase of the stride meet the same taps, and are a dense convolution of dy; no product with an inserted zero
// Layout    the kernel reads dy and w with neighbouring channels, aligned to 16 bytes (channels_last); the launcher
//           packs others first (conv_pack.h). dx and the residual any
// Mapping   as fprop, with blockIdx.z for the phase: rows are the phase's positions, columns input channels, the
//           reduction the phase's taps and filters. Input channels are neighbours in w: its vectors lie across the
//           reduction, and ldmatrix turns them (16-bit types) or 32-bit loads do without (floats)
// Memory    as fprop; where a filter and tap lies one thread works out for all (igemm_ahead.h)
// Limits    as fprop, for filters and channels of a group alike
#include "cuda/conv_igemm.h"
#include "cuda/conv_kernels.h"

namespace convkit::cuda {

Status conv_dgrad_igemm(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                        const TensorView& dx) {
  return run_igemm<AcrossReduction, FilterColumns>(p, true, false, dy, w, e, dx);
}

Status conv_dgrad_igemm_tf32(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                             const TensorView& dx) {
  return run_igemm<AcrossReduction, FilterColumns>(p, true, true, dy, w, e, dx);
}

}  // namespace convkit::cuda
