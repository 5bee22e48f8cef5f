// The core headers' functions behind pointers, one table per instruction set, so that tests can call each copy.
#pragma once

#include "core/pool_problem.h"

namespace convkit {

struct CoreFunctions {
  const char* instruction_set;
  bool avx2, avx512;  // what the compiler was allowed to use

  int64_t (*conv_output_size)(int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after,
                              int64_t dilation);
  int64_t (*pool_output_size)(int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after,
                              int64_t dilation, bool ceil_mode);
  TapRange (*tap_range)(const PoolProblem&, int dim, int64_t o);
  int64_t (*padded_taps)(const PoolProblem&, int dim, int64_t o);
  void (*covering_windows)(const PoolProblem&, int dim, int64_t i, int64_t* begin, int64_t* end);
  int64_t (*offset_bytes)(const PoolProblem&);

  // The four words of a block of Philox4x32-10.
  void (*philox)(const uint32_t counter[4], uint64_t key, uint32_t words[4]);

  // Element by element, n of them.
  void (*bfloat16_to_float)(const uint16_t* from, float* to, int64_t n);
  void (*float_to_bfloat16)(const float* from, uint16_t* to, int64_t n);
  void (*float16_to_float)(const uint16_t* from, float* to, int64_t n);
  void (*float_to_float16)(const float* from, uint16_t* to, int64_t n);
};

}  // namespace convkit
