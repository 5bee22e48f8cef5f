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

// What most policies leave alone: the elements as they are read, and the result before it is stored. A policy with
// state (an exponent) has such functions of its own; kernels copy the policy, one per task, and call `done` at the end.
struct PlainOp {
  static constexpr bool kEntersOnce = false;  // `enter` is worth a pass of its own, so that no element enters twice

  template <typename V>
  static CONVKIT_INLINE V enter(V v) {
    return v;
  }
  template <typename V>
  static CONVKIT_INLINE V finish(V v) {
    return v;
  }
  static CONVKIT_INLINE void done() {}
  // Looks again at results that a row (n, o, q) of y has just got: windows r0 to r0 + columns of one channel, or all
  // windows of all channels.
  template <typename... Place>
  static CONVKIT_INLINE void review(const Place&...) {}
};

// The largest element; of equal ones the first, and NaN beats everything, the last NaN the others.
struct MaxOp : PlainOp {
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

// As MaxOp::choose for elements in any order: of equal values the smaller tap counts, of NaN the larger.
template <typename V, typename K>
CONVKIT_INLINE void choose_by_tap(V& best, K& chosen, V v, K tap) {
  const auto earlier = tap < chosen;  // of vectors, lanes of 0 and -1
  const auto better = (v > best) | ((v == best) & earlier) | ((v != v) & ((best == best) | !earlier));
  best = better ? v : best;
  chosen = better ? tap : chosen;
}

// The sum, which the caller divides by the window's divisor.
struct AvgOp : PlainOp {
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

// The adjoints: what dx sums. SelectBwd takes dy where the window chose the element, AvgBwd dy over the divisor.
struct SelectBwd : PlainOp {
  static constexpr bool kSelect = true, kWeighs = false;
};
struct AvgBwd : PlainOp {
  static constexpr bool kSelect = false, kWeighs = false;
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
