// What the pooling kernels share besides vectors: dividing work into tasks, scratch memory, divisors, dtypes.
#pragma once

#include "core/parallel.h"
#include "core/pool_ops.h"
#include "core/pool_problem.h"
#include "core/pool_window.h"
#include "core/status.h"
#include "core/tensor_view.h"
#include "cpu/pool_vector.h"

#define CONVKIT_INLINE_LAMBDA __attribute__((always_inline))

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

constexpr Status kNoMemory{"pooling found no memory for its row buffers"};

CONVKIT_INLINE int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
CONVKIT_INLINE int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }
CONVKIT_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
CONVKIT_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Hands out pieces of one scratch buffer. Made twice: without memory it only adds up the bytes.
struct Carver {
  char* base;
  size_t used;
  template <typename E>
  CONVKIT_INLINE void take(E** to, int64_t count) {
    if (base != nullptr) *to = reinterpret_cast<E*>(base + used);
    used += (static_cast<size_t>(count) * sizeof(E) + 63) / 64 * 64;
  }
};

// Gives `buffers` (any struct with `void carve(Carver&, args...)`) this thread's scratch memory.
template <typename Buffers, typename Plan>
CONVKIT_INLINE bool carve_scratch(Buffers* buffers, const Plan& plan) {
  Carver sizes{nullptr, 0};
  buffers->carve(sizes, plan);
  Carver real{static_cast<char*>(thread_scratch(0, sizes.used)), 0};
  if (real.base == nullptr) return false;
  buffers->carve(real, plan);
  return true;
}

// Set by any task that failed; read after all have ended.
struct Failure {
  int set = 0;
  CONVKIT_INLINE void raise() { __atomic_store_n(&set, 1, __ATOMIC_RELAXED); }
  CONVKIT_INLINE Status status() { return __atomic_load_n(&set, __ATOMIC_RELAXED) != 0 ? kNoMemory : kOk; }
};

// Units of `unit_elements` elements each are handed to threads in runs long enough to be worth it.
constexpr int64_t kTaskElements = 1 << 15;

template <typename F>
CONVKIT_INLINE void for_units(int64_t units, int64_t unit_elements, const F& run) {
  if (units * unit_elements < 2 * kTaskElements) {  // waking threads costs more
    run(int64_t{0}, units);
    return;
  }
  const int64_t step = greater(1, kTaskElements / greater(unit_elements, 1));
  parallel_for(ceil_div(units, step), [&](int64_t task) { run(task * step, lesser(units, (task + 1) * step)); });
}

// Into how many bands to cut `rows` when there are only `units` pieces of work of `rows * row_elements` elements.
CONVKIT_INLINE int64_t band_count(int64_t units, int64_t rows, int64_t row_elements) {
  constexpr int64_t kEnoughUnits = 32;
  if (units >= kEnoughUnits) return 1;
  const int64_t by_size = greater(1, rows * row_elements / kTaskElements);
  return lesser(rows, lesser(ceil_div(kEnoughUnits, greater(units, 1)), by_size));
}

// How many planes of `slot` positions to put side by side.
CONVKIT_INLINE int64_t planes_abreast(int64_t planes, int64_t slot, int64_t lanes) {
  return slot >= 4 * lanes ? 1 : lesser(planes, ceil_div(8 * lanes, slot));
}

// What padding holds for elements of type T.
template <typename Policy, typename T>
CONVKIT_INLINE constexpr pool_accumulate_t<T> pad_value() {
  using A = pool_accumulate_t<T>;
  if constexpr (IsFloating<A>::value)
    return Policy::template identity<A>();
  else
    return static_cast<A>(Policy::template identity<T>());
}

CONVKIT_INLINE int64_t plane_offset(const PoolProblem& p, const TensorView& t, int64_t plane) {
  return plane / p.c * t.stride[kN] + plane % p.c * t.stride[kC];
}

}  // namespace
}  // namespace CONVKIT_ISA
}  // namespace convkit
