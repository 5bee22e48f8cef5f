// The operands of an implicit GEMM in shared memory, and as the fragments that tensor cores take.
//
// A stage holds kStepBytes of the reduction (32 elements of a 16-bit type, 16 floats) for every row of the result's
// tile ("outer" index) and for every column. The 16-byte vectors that cp.async brings lie along the reduction, or
// across it; either way their places are permuted by an XOR with the row, so that the eight rows that one ldmatrix (or
// one load of a warp) reads fall into different banks, and no row is padded.
#pragma once

#include "cuda/device/matrix.h"
#include "cuda/device/pack.h"

namespace convkit::cuda {

constexpr int kStepBytes = 64, kStepVectors = kStepBytes / kPackBytes;
constexpr int kMmaBytes = 32, kMmasPerStep = kStepBytes / kMmaBytes;  // of the reduction in one mma

template <typename T>
constexpr int kStep = kStepBytes / static_cast<int>(sizeof(T));

// How products of T are formed: kTerms 1 takes floats as TF32, 3 keeps their 24 bits (multiply_step).
template <typename T, int kTermsOfProduct>
struct Products {
  static_assert(kTermsOfProduct == 1 || (kTermsOfProduct == 3 && sizeof(T) == 4), "only floats have a remainder");
  using Element = T;
  static constexpr int kTerms = kTermsOfProduct;
};

// Vectors along the reduction: row `outer` is kStepBytes long. x in fprop, dy in dgrad, w in fprop.
template <typename T, int kOuter>
struct AlongReduction {
  static constexpr int kRows = kOuter, kVectors = kStepVectors;

  // Bytes from the operand's start to vector `vector` of row `row`. Two rows share the 128 bytes of all banks.
  CONVKIT_HOST_DEVICE static constexpr int place(int row, int vector) {
    return row * kStepBytes + (vector ^ (row >> 1 & 3)) * kPackBytes;
  }

  // 16 rows of A, from `outer`, for mma number `mma` of the step.
  CONVKIT_DEVICE static void load_a(const char* operand, int outer, int mma, int lane, uint32_t (&r)[4]) {
    load_matrices(operand + place(outer + lane % 16, 2 * mma + lane / 16), r);
  }
  // 16 columns of B: two fragments of two registers.
  CONVKIT_DEVICE static void load_b(const char* operand, int outer, int mma, int lane, uint32_t (&r)[4]) {
    load_matrices(operand + place(outer + lane % 8 + lane / 16 * 8, 2 * mma + lane / 8 % 2), r);
  }
};

// Vectors across the reduction: row k holds element k of the step for kOuter neighbours. w in dgrad, both operands in
// wgrad. 16-bit types are turned by ldmatrix; it cannot turn floats, which are read one by one.
template <typename T, int kOuter>
struct AcrossReduction {
  static constexpr int kRows = kStep<T>, kVectors = kOuter / kPackCount<T>;

  CONVKIT_HOST_DEVICE static constexpr int place(int row, int vector) {
    const int turn = sizeof(T) == 2 ? row & 7 : (row & 3) << 1;
    return row * kOuter * static_cast<int>(sizeof(T)) + (vector ^ turn) * kPackBytes;
  }

  CONVKIT_DEVICE static void load_a(const char* operand, int outer, int mma, int lane, uint32_t (&r)[4]) {
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(operand + place(16 * mma + lane % 8 + lane / 16 * 8, outer / 8 + lane / 8 % 2), r);
    } else {
      CONVKIT_UNROLL
      for (int i = 0; i < 4; ++i) r[i] = word(operand, 8 * mma + lane % 4 + i / 2 * 4, outer + lane / 4 + i % 2 * 8);
    }
  }
  CONVKIT_DEVICE static void load_b(const char* operand, int outer, int mma, int lane, uint32_t (&r)[4]) {
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(operand + place(16 * mma + lane % 16, outer / 8 + lane / 16), r);
    } else {
      CONVKIT_UNROLL
      for (int i = 0; i < 4; ++i) r[i] = word(operand, 8 * mma + lane % 4 + i % 2 * 4, outer + lane / 4 + i / 2 * 8);
    }
  }

 private:
  CONVKIT_DEVICE static uint32_t word(const char* operand, int row, int outer) {
    return *reinterpret_cast<const uint32_t*>(operand + place(row, outer / 4) + outer % 4 * 4);
  }
};

// A float as `high` + `low`, both TF32: what is lost is below 2^-22 of it. What TF32 rounds to infinity is cut off
// instead. An infinity or NaN is the low part, beside 1 with its sign: in low high + high low + high high it meets
// nothing but the other factor, or that factor's sign, so that the sum is what float32's product is. Infinity + 0, the
// obvious parts, would give NaN with every number that TF32 holds.
CONVKIT_DEVICE void split(uint32_t& high, uint32_t& low) {
  const float v = bit_cast<float>(high);
  const bool finite = (high & 0x7f800000u) != 0x7f800000u;
  uint32_t h = bit_cast<uint32_t>(round_tf32(v));
  if (h << 1 == 0xff000000u) h = high & 0xffffe000u;
  // v + v: a NaN that TF32 would cut down to an infinity becomes a quiet one.
  low = finite ? bit_cast<uint32_t>(round_tf32(v - bit_cast<float>(h))) : bit_cast<uint32_t>(v + v);
  high = finite ? h : (high & 0x80000000u) | 0x3f800000u;
}

}  // namespace convkit::cuda
