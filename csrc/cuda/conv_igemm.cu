// conv_igemm: what the implicit GEMMs on tensor cores support, in words, and where packing operands for them pays.
#include "cuda/conv_gather.h"
#include "cuda/conv_kernels.h"
#include "cuda/conv_pack.h"
#include "cuda/igemm_tile.h"

namespace convkit::cuda {
namespace {

constexpr int64_t kMostPositions = 0x7fff0000;  // a pipeline may count a few steps beyond the last

// What things cost, in multiply-adds that conv_direct makes meanwhile: about 10^13 a second, since two of three of its
// instructions are not. Reckoned for a GPU with 4 TB/s and tensor cores of 5 10^14 multiply-adds a second, half used;
// not measured.
struct PackingCosts {
  int64_t per_byte;     // of a copy: read once, written once
  int64_t per_operand;  // a launch before the product can start, 3 us
  int64_t products;     // that tensor cores make for one of conv_direct's: of 16-bit types,
  int64_t tf32, float32;
};
constexpr PackingCosts kPacking{5, 30'000'000, 24, 12, 4};

const char* supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (p.padding_mode != PaddingMode::kZeros) return "conv_igemm reads zero padding only";
  if (op != ConvOp::kWgrad && (op == ConvOp::kDgrad ? p.k : p.c) == 0)
    return "conv_igemm sums over channels, of which there are none";
  const DType dtype = t.x.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kBFloat16 && dtype != DType::kFloat16)
    return "conv_igemm multiplies float32, bfloat16 and float16: tensor cores have no other of our types";
  const int64_t positions = volume(op == ConvOp::kDgrad ? p.in : p.out);
  if (!positions_fit(p) || positions * p.n >= kMostPositions) return "conv_igemm counts positions in 32 bits";
  if (op == ConvOp::kDgrad && volume(p.filter) * whole_vectors(p.k / p.groups, dtype) >= kMostPositions)
    return "conv_igemm counts the products of a sum in 32 bits";
  if (op == ConvOp::kWgrad && volume(p.filter) * whole_vectors(p.c / p.groups, dtype) >= 0x7fffffff)
    return "conv_igemm counts columns of 'w' in 32 bits";
  return nullptr;
}

// What an operation reads: activations, and filters or more activations.
struct Operands {
  const TensorView &first, &second;
  PackPlan of_first, of_second;

  int64_t packed() const { return needs_packing(first, of_first) + needs_packing(second, of_second); }
  int64_t packed_elements() const {
    return (needs_packing(first, of_first) ? of_first.elements(first) : 0) +
           (needs_packing(second, of_second) ? of_second.elements(second) : 0);
  }
};
Operands operands_of(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  const DType dtype = t.x.dtype;
  if (op == ConvOp::kWgrad) return {t.y, t.x, pack_activations(p, p.k, dtype), pack_activations(p, p.c, dtype)};
  const bool adjoint = op == ConvOp::kDgrad;
  return {adjoint ? t.y : t.x, t.w, pack_activations(p, adjoint ? p.k : p.c, dtype), pack_filters(p, adjoint, dtype)};
}

#define CONVKIT_NEIGHBOURS(tensor)                                           \
  "conv_igemm moves 16 bytes at a time: the channels of a group in '" tensor \
  "' must be neighbours (channels_last), a multiple of 16 bytes and aligned to them"

const char* supports_as_they_are(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (const char* reason = supports(op, p, t)) return reason;
  const Operands operands = operands_of(op, p, t);
  if (needs_packing(operands.first, operands.of_first))
    return op == ConvOp::kFprop ? CONVKIT_NEIGHBOURS("x") : CONVKIT_NEIGHBOURS("dy");
  if (needs_packing(operands.second, operands.of_second))
    return op == ConvOp::kWgrad ? CONVKIT_NEIGHBOURS("x") : CONVKIT_NEIGHBOURS("w");
  return nullptr;
}
#undef CONVKIT_NEIGHBOURS

// Multiply-adds of the tiles, of which only a part may be wanted where groups are small.
int64_t products_in_tiles(ConvOp op, const ConvProblem& p, DType dtype) {
  const auto tiles = [](int64_t size) { return ceil_div(size, kSmallTile) * kSmallTile; };
  const int64_t c = p.c / p.groups, k = p.k / p.groups, taps = volume(p.filter), positions = p.n * volume(p.out);
  if (op == ConvOp::kFprop) return p.groups * positions * tiles(k) * taps * whole_vectors(c, dtype);
  if (op == ConvOp::kDgrad) return p.groups * positions * tiles(c) * taps * whole_vectors(k, dtype);
  return p.groups * positions * tiles(k) * tiles(taps * whole_vectors(c, dtype));
}

const char* supports_packed(ConvOp op, const ConvProblem& p, const ConvTensors& t, bool tf32) {
  if (const char* reason = supports(op, p, t)) return reason;
  const Operands operands = operands_of(op, p, t);
  if (!pack_reaches(operands.first) || !pack_reaches(operands.second))
    return "conv_igemm_packed copies images and filters that span less than 2^31 elements of memory";
  if (p.algorithm != 0) return nullptr;
  const int64_t bytes = dtype_bytes(t.x.dtype);
  const int64_t rate = bytes == 2 ? kPacking.products : tf32 ? kPacking.tf32 : kPacking.float32;
  const int64_t cost = products_in_tiles(op, p, t.x.dtype) / rate + operands.packed() * kPacking.per_operand +
                       operands.packed_elements() * bytes * kPacking.per_byte;
  return cost < p.n * volume(p.out) * p.k * (p.c / p.groups) * volume(p.filter)
             ? nullptr
             : "conv_igemm_packed would take longer to pack than conv_direct to compute";
}

const char* rounds_to_tf32(const ConvProblem& p, const ConvTensors& t) {
  if (t.x.dtype != DType::kFloat32) return "algorithms of TF32 round float32 only";
  return p.allow_tf32 || p.algorithm != 0 ? nullptr : "algorithms of TF32 run where it is allowed, or by name";
}

}  // namespace

const char* conv_igemm_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  return supports_as_they_are(op, p, t);
}

const char* conv_igemm_tf32_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  const char* reason = rounds_to_tf32(p, t);
  return reason != nullptr ? reason : supports_as_they_are(op, p, t);
}

const char* conv_igemm_packed_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  return supports_packed(op, p, t, false);
}

const char* conv_igemm_packed_tf32_supports(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  const char* reason = rounds_to_tf32(p, t);
  return reason != nullptr ? reason : supports_packed(op, p, t, true);
}

}  // namespace convkit::cuda
