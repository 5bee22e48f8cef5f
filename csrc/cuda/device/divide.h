// Division of index arithmetic by a number known at the launch: a multiplication and a shift instead of some 30
// instructions. Granlund and Montgomery, "Division by invariant integers using multiplication", 1994.
#pragma once

#include "cuda/device/platform.h"

namespace convkit::cuda {

// Divides 0 <= n < 2^31 by 1 <= d < 2^31: with shift = ceil(log2 d) and magic = floor(2^32 (2^shift - d) / d) + 1,
// n / d = (mulhi(n, magic) + n) >> shift, and the sum stays below 2^32.
class Divider {
 public:
  Divider() = default;
  explicit Divider(int64_t divisor) : divisor_(static_cast<uint32_t>(divisor)) {
    while ((uint64_t{1} << shift_) < divisor_) ++shift_;
    magic_ = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift_) - divisor_)) / divisor_ + 1);
  }
  CONVKIT_HOST_DEVICE int32_t divide(int32_t n) const {
    const uint32_t u = static_cast<uint32_t>(n);
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(u) * magic_) >> 32);
    return static_cast<int32_t>((high + u) >> shift_);
  }

  CONVKIT_HOST_DEVICE int32_t divisor() const { return static_cast<int32_t>(divisor_); }

  // The remainder; the quotient is left in *n.
  CONVKIT_HOST_DEVICE int32_t take(int32_t* n) const {
    const int32_t quotient = divide(*n), remainder = *n - quotient * divisor();
    *n = quotient;
    return remainder;
  }

 private:
  uint32_t divisor_ = 1, magic_ = 1, shift_ = 0;
};

}  // namespace convkit::cuda
