// Stochastic pooling of one window (Zeiler & Fergus, "Stochastic pooling for regularization of deep convolutional
// neural networks", ICLR 2013): element j is chosen with probability p_j = x_j / sum x; the expectation is sum p_j x_j.
//
// Elements that are not positive, and padding, count as 0; a window whose sum is 0 gives 0 and chooses nothing.
// V is a scalar or a vector of A, one window per lane, K the integer of its width. `window(f)` calls f(V x, K tap)
// for every tap in row major order, and may be called more than once. Sums add in that order, one element at a
// time: a sum, and with it a choice, then has the same bits wherever it is computed. C++ is compiled without
// contraction of products and sums.
#pragma once

#include <limits>

#include "core/dtype.h"
#include "core/macros.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// What an element weighs: itself where it is positive, NaN where it is NaN, else 0 (of either sign). The processor's
// maximum: of two operands it returns the second where one is NaN, or both are 0.
template <typename V>
CONVKIT_INLINE V stochastic_weight(V x) {
  return V{} > x ? V{} : x;
}

template <typename V, typename Window>
CONVKIT_INLINE V stochastic_sum(const Window& window) {
  V sum{};
  window([&](V x, auto) __attribute__((always_inline)) { sum = sum + stochastic_weight(x); });
  return sum;
}

// What the cumulative sum must exceed: u times the sum, and less than an infinite sum.
template <typename A, typename V>
CONVKIT_INLINE V stochastic_threshold(V u, V sum) {
  const V largest = V{} + std::numeric_limits<A>::max();
  return sum > largest ? largest : u * sum;
}

// The first element whose cumulative sum exceeds the threshold; chosen = -1 and y = 0 where nothing is positive.
// A positive element is chosen as soon as one is there: where rounding lets u * sum reach the sum (subnormal
// numbers), the last of them. An infinite sum: the element with which it becomes infinite, so the first infinite
// one. NaN wins, and the last NaN, as in max pooling.
template <typename V, typename K, typename Window>
CONVKIT_INLINE void stochastic_search(const Window& window, V threshold, V& y, K& chosen) {
  V cumulative{};
  auto searching = cumulative <= V{};
  y = V{};
  chosen = K{} - 1;
  window([&](V x, K tap) __attribute__((always_inline)) {
    const V w = stochastic_weight(x);
    const auto take = (searching & (w > V{})) | (w != w);
    y = take ? w : y;
    chosen = take ? tap : chosen;
    cumulative = cumulative + w;
    searching = cumulative <= threshold;
  });
}

// A product that rounds on its own. CPU files are compiled without contraction; nvcc is told here.
template <typename V>
CONVKIT_INLINE V rounded_product(V a, V b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == sizeof(double))
    return __dmul_rn(a, b);
  else
    return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// Bits of the exponent of A's numbers.
template <typename A>
struct ExponentBits;
template <>
struct ExponentBits<float> {
  static constexpr int32_t kStep = int32_t{1} << 23, kFields = 255;
};
template <>
struct ExponentBits<double> {
  static constexpr int64_t kStep = int64_t{1} << 52, kFields = 2047;
};

// sum x^2 / sum x, of elements scaled by a power of two that brings the largest near 1: squares then neither overflow
// nor vanish, and nothing is rounded. Infinite where an element is, NaN where one is.
template <typename A, typename V, typename K, typename Window>
CONVKIT_INLINE V stochastic_expectation(const Window& window) {
  using Bits = ExponentBits<A>;
  V largest{};
  window([&](V x, K) __attribute__((always_inline)) { largest = x > largest ? x : largest; });
  const K smallest_exponent = K{} + Bits::kStep, largest_exponent = K{} + (Bits::kFields - 2) * Bits::kStep;
  K exponent = bit_cast<K>(largest) & (K{} + Bits::kFields * Bits::kStep);
  exponent = exponent < smallest_exponent ? smallest_exponent : exponent;
  exponent = exponent > largest_exponent ? largest_exponent : exponent;
  const V unscale = bit_cast<V>(exponent), scale = bit_cast<V>((Bits::kFields - 1) * Bits::kStep - exponent);
  V sum{}, squares{};
  window([&](V x, K) __attribute__((always_inline)) {
    const V w = rounded_product(stochastic_weight(x), scale);
    sum = sum + w;
    squares = squares + rounded_product(w, w);
  });
  const V finite = V{} + std::numeric_limits<A>::max();
  return sum <= V{} ? V{} : (squares > finite ? squares : squares / sum * unscale);
}

// The gradient of the expectation y in one element x of its window, where x is positive. Where the sum is 0 the
// quotient is NaN, but no element of the window is positive.
template <typename V>
CONVKIT_INLINE V stochastic_share(V dy, V x, V y, V sum) {
  return rounded_product(dy, (x - y + x) / sum);  // x + x could overflow
}

template <typename V>
CONVKIT_INLINE V where_positive(V x, V gradient) {
  return x <= V{} ? V{} : gradient;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
