// conv_igemm: what the implicit GEMMs on tensor cores support, in words.
#include "cuda/conv_gather.h"
#include "cuda/conv_kernels.h"
#include "cuda/walk.h"

namespace convkit::cuda {
namespace {

constexpr int64_t kMostPositions = 0x7fff0000;  // a pipeline may count a few steps beyond the last

// Whether `channels` of each group, along stride[kC], can be moved as whole vectors of 16 bytes.
bool vectors_fit(const TensorView& t, int64_t channels) {
  const int64_t bytes = dtype_bytes(t.dtype), vector = 16 / bytes;
  return channels > 0 && channels % vector == 0 && packs_fit(t, vector, bytes);
}

const char* supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_igemm reads zero padding only";
  const DType dtype = t.x.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kBFloat16 && dtype != DType::kFloat16)
    return "conv_igemm multiplies float32, bfloat16 and float16: tensor cores have no other of our types";
  const int64_t positions = volume(op == ConvOp::kDgrad ? p.in : p.out);
  if (!positions_fit(p) || positions * p.n >= kMostPositions) return "conv_igemm counts positions in 32 bits";
  const int64_t c = p.c / p.groups, k = p.k / p.groups;
  if (op == ConvOp::kWgrad && volume(p.filter) * c >= 0x7fffffff) return "conv_igemm counts columns of 'w' in 32 bits";
  if (op != ConvOp::kDgrad && !vectors_fit(t.x, c))
    return "conv_igemm moves 16 bytes at a time: the channels of a group in 'x' must be neighbours (channels_last), a "
           "multiple of 16 bytes and aligned to them";
  if (op != ConvOp::kFprop && !vectors_fit(t.y, k))
    return "conv_igemm moves 16 bytes at a time: the channels of a group in 'dy' must be neighbours (channels_last), a "
           "multiple of 16 bytes and aligned to them";
  if (op != ConvOp::kWgrad && !vectors_fit(t.w, c))
    return "conv_igemm moves 16 bytes at a time: the channels of 'w' must be neighbours (channels_last), a multiple of "
           "16 bytes and aligned to them";
  return nullptr;
}

}  // namespace

const char* conv_igemm_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) { return supports(op, p, t); }

const char* conv_igemm_tf32_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (t.x.dtype != DType::kFloat32) return "conv_igemm_tf32 rounds float32 only";
  if (!p.allow_tf32 && p.algorithm == 0) return "conv_igemm_tf32 runs where TF32 is allowed, or where it is named";
  return supports(op, p, t);
}

}  // namespace convkit::cuda
