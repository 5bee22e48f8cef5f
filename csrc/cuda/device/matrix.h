// Tensor cores: ldmatrix, mma.sync and the TF32 format. PTX ISA, "Matrix Fragments for mma.m16n8k16" and "m16n8k8".
// Which lane holds what is written down in simt_emulator/matrix.h, and used in cuda/igemm_operands.h.
//
// A whole warp calls these functions. Registers are 32-bit words: two neighbours of a 16-bit type, or one float.
#pragma once

#include "core/dtype.h"
#include "cuda/device/platform.h"

namespace convkit::cuda {

// Four matrices of 8 rows of 16 bytes, which lie anywhere in shared memory: lane l names row l % 8 of matrix l / 8.
CONVKIT_DEVICE void load_matrices(const void* row, uint32_t (&r)[4]) {
#ifdef __CUDACC__
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
#else
  simt::load_matrices(row, r, false, CONVKIT_SITE);
#endif
}

// The same, each turned as a matrix of 8 x 8 16-bit elements.
CONVKIT_DEVICE void load_matrices_transposed(const void* row, uint32_t (&r)[4]) {
#ifdef __CUDACC__
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
#else
  simt::load_matrices(row, r, true, CONVKIT_SITE);
#endif
}

// D += A B for 16 x 8 sums in float32 and 32 bytes of each row of A: T is bfloat16, float16, or float (taken as TF32).
template <typename T>
CONVKIT_DEVICE void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#ifdef __CUDACC__
#define CONVKIT_MMA(T, name)                                                                                \
  template <>                                                                                               \
  CONVKIT_DEVICE void multiply_matrices<T>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
    asm("mma.sync.aligned." name " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                    \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                \
  }
CONVKIT_MMA(bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
CONVKIT_MMA(float16, "m16n8k16.row.col.f32.f16.f16.f32")
CONVKIT_MMA(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#else
#define CONVKIT_MMA(T, name)                                                                                \
  template <>                                                                                               \
  CONVKIT_DEVICE void multiply_matrices<T>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
    simt::multiply_matrices(simt::Multiplicand::name, d, a, b, CONVKIT_SITE);                               \
  }
CONVKIT_MMA(bfloat16, kBFloat16)
CONVKIT_MMA(float16, kFloat16)
CONVKIT_MMA(float, kTf32)
#endif
#undef CONVKIT_MMA

// To the nearest TF32 number (10 bits of mantissa), ties away from zero; beyond the largest of them, infinity.
CONVKIT_DEVICE float round_tf32(float v) {
#ifdef __CUDACC__
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return __uint_as_float(r);
#else
  return simt::round_tf32(v);
#endif
}

}  // namespace convkit::cuda
