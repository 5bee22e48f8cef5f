// Compiled once per instruction set, as the kernels are.
#include "testing/core_functions.h"

#include "core/conv_problem.h"
#include "core/dtype.h"
#include "core/philox.h"

#define CONVKIT_STRING_OF(name) #name
#define CONVKIT_STRING(name) CONVKIT_STRING_OF(name)

namespace convkit {
inline namespace CONVKIT_ISA {

#if defined(__AVX2__)
constexpr bool kAvx2 = true;
#else
constexpr bool kAvx2 = false;
#endif
#if defined(__AVX512F__)
constexpr bool kAvx512 = true;
#else
constexpr bool kAvx512 = false;
#endif

extern const CoreFunctions kCoreFunctions;
const CoreFunctions kCoreFunctions = {
    CONVKIT_STRING(CONVKIT_ISA),
    kAvx2,
    kAvx512,
    [](int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation) {
      return conv_output_size(length, kernel, stride, before, after, dilation);
    },
    [](int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation, bool ceil) {
      return pool_output_size(length, kernel, stride, before, after, dilation, ceil);
    },
    [](const PoolProblem& p, int dim, int64_t o) { return tap_range(p, dim, o); },
    [](const PoolProblem& p, int dim, int64_t o) { return padded_taps(p, dim, o); },
    [](const PoolProblem& p, int dim, int64_t i, int64_t* begin, int64_t* end) {
      covering_windows(p, dim, i, begin, end);
    },
    [](const PoolProblem& p) { return offset_bytes(p); },
    [](const uint32_t counter[4], uint64_t key, uint32_t words[4]) {
      uint64_t block[4] = {counter[0], counter[1], counter[2], counter[3]};
      philox_rounds<0>(block, philox_keys(key), MultiplyWords{});
      for (int i = 0; i < 4; ++i) words[i] = static_cast<uint32_t>(block[i]);
    },
    [](const uint16_t* from, float* to, int64_t n) {
      for (int64_t i = 0; i < n; ++i) to[i] = to_float(bfloat16{from[i]});
    },
    [](const float* from, uint16_t* to, int64_t n) {
      for (int64_t i = 0; i < n; ++i) to[i] = to_bfloat16(from[i]).bits;
    },
    [](const uint16_t* from, float* to, int64_t n) {
      for (int64_t i = 0; i < n; ++i) to[i] = to_float(float16{from[i]});
    },
    [](const float* from, uint16_t* to, int64_t n) {
      for (int64_t i = 0; i < n; ++i) to[i] = to_float16(from[i]).bits;
    },
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
