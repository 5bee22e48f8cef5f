// conv_igemm: fprop on tensor cores, as an implicit GEMM.
//
// Computes  y[n,k,o,q,r] = epilogue(sum over taps and c of x[n,c,...] w[k,c,tap]); as a product of matrices: rows are
//           output positions, columns filters, the reduction taps and channels
// Layout    the kernel reads x and w with neighbouring channels, aligned to 16 bytes (channels_last); the launcher
//           packs others first (conv_pack.h). y and the residual any, packed stores where they are alike
// Mapping   a block makes 128 x 128 or 64 x 64 sums of one group, a warp 64 x 32 or 32 x 32 by mma.sync; bfloat16 and
//           float16 with exact products, float32 by three products of TF32, or one where TF32 is allowed
// Memory    four stages of 64 bytes of the reduction for each row and column, by cp.async, zeros for padding; each x is
//           read once per tap and 128 filters, mostly from L2, each w once per 128 positions; where statistics of y
//           are asked for, 12 bytes per channel and row of tiles, which a second kernel merges (bn_merge.h)
// Limits    channels of a group are a multiple of 16 bytes, in x and w or in their copies; positions of all images
//           together are counted in 32 bits
#include "cuda/conv_igemm.h"
#include "cuda/conv_kernels.h"

namespace convkit::cuda {

Status conv_fprop_igemm(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                        const TensorView& y) {
  return run_igemm<AlongReduction, FilterRows>(p, false, false, x, w, e, y);
}

Status conv_fprop_stats_igemm(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                              const TensorView& y, const ChannelStatistics& statistics) {
  return run_igemm<AlongReduction, FilterRows>(p, false, false, x, w, e, y, &statistics);
}

Status conv_fprop_igemm_tf32(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                             const TensorView& y) {
  return run_igemm<AlongReduction, FilterRows>(p, false, true, x, w, e, y);
}

Status conv_fprop_stats_igemm_tf32(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                                   const TensorView& y, const ChannelStatistics& statistics) {
  return run_igemm<AlongReduction, FilterRows>(p, false, true, x, w, e, y, &statistics);
}

}  // namespace convkit::cuda
