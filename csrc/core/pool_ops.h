// What a window does with its elements: the policies every pooling kernel is instantiated with.
//
// V is a scalar or a vector of values, I the matching tap numbers; both come in the order of the window (row
// major), and a policy keeps its meaning when it reduces along w first, then h, then d, because that visits
// the elements of a window in the same relative order wherever the order matters.
#pragma once

#include <limits>

#include "core/macros.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// The largest element; of equal ones the first, and NaN beats everything, the last NaN the others.
struct MaxOp {
  static constexpr bool kDivides = false;

  // What padding holds: it never wins against an element.
  template <typename A>
  static CONVKIT_INLINE constexpr A identity() {
    return std::numeric_limits<A>::has_infinity ? -std::numeric_limits<A>::infinity() : std::numeric_limits<A>::min();
  }
  template <typename V>
  static CONVKIT_INLINE void reduce(V& best, V v) {
    best = v > best ? v : (v != v ? v : best);
  }
  template <typename V, typename I>
  static CONVKIT_INLINE void choose(V& best, I& chosen, V v, I tap) {
    chosen = v > best ? tap : (v != v ? tap : chosen);
    best = v > best ? v : (v != v ? v : best);
  }
};

// The sum, which the caller divides by the window's divisor.
struct AvgOp {
  static constexpr bool kDivides = true;

  template <typename A>
  static CONVKIT_INLINE constexpr A identity() {
    return A{0};
  }
  template <typename V>
  static CONVKIT_INLINE void reduce(V& sum, V v) {
    sum = sum + v;
  }
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
