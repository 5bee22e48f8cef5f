// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw ("Parallel random numbers: as easy
// as 1, 2, 3", SC 2011): random bits as a pure function of a key and a counter.
//
// A draw depends on nothing but its address, so that every backend, layout, instruction set, device and number of
// threads sees the same one. The key is a seed of 64 bits, low word first; the counter is (index low, index high,
// 0, 0), and a draw is the first of the four words that come out.
#pragma once

#include "core/macros.h"

namespace convkit {
inline namespace CONVKIT_ISA {

// Lower word of a, times m: all 64 bits.
struct MultiplyWords {
  CONVKIT_INLINE uint64_t operator()(uint64_t a, uint32_t m) const { return uint64_t{static_cast<uint32_t>(a)} * m; }
};

// The ten rounds' keys, made of a seed once for many draws.
struct PhiloxKeys {
  static constexpr int kRounds = 10;
  uint64_t k[kRounds][2];
};

CONVKIT_INLINE PhiloxKeys philox_keys(uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  PhiloxKeys keys;
  for (auto& k : keys.k) {
    k[0] = k0;
    k[1] = k1;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return keys;
}

// Rounds kRound to 9 on the block c. W holds a word in the lower half of 64 bits, W one of them or several; upper
// halves are ignored and left undefined, which spares masks: multiply(W a, uint32_t m) reads the lower ones alone.
// One function per round: what a round leaves unused then costs nothing.
template <int kRound, typename W, typename Multiply>
CONVKIT_INLINE void philox_rounds(W (&c)[4], const PhiloxKeys& keys, const Multiply& multiply) {
  if constexpr (kRound < PhiloxKeys::kRounds) {
    const W p0 = multiply(c[0], 0xD2511F53u), p1 = multiply(c[2], 0xCD9E8D57u);
    c[0] = (p1 >> 32) ^ c[1] ^ keys.k[kRound][0];
    c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ keys.k[kRound][1];
    c[3] = p0;
    philox_rounds<kRound + 1>(c, keys, multiply);
  }
}

// The draw at `index`, in the lower half; the upper is undefined. In round 0 half of the block is 0.
template <typename W, typename Multiply>
CONVKIT_INLINE W philox_draw(W index, const PhiloxKeys& keys, const Multiply& multiply) {
  const W p0 = multiply(index, 0xD2511F53u);
  W c[4] = {(index >> 32) ^ keys.k[0][0], W{}, (p0 >> 32) ^ keys.k[0][1], p0};
  philox_rounds<1>(c, keys, multiply);
  return c[0];
}

// A word as a number in [0, 1): its upper 24 bits times 2^-24, which float32 and float64 hold exactly.
constexpr int kUniformBits = 24;
constexpr float kUniformStep = 1.0f / (1 << kUniformBits);

CONVKIT_INLINE float philox_uniform(uint64_t index, const PhiloxKeys& keys) {
  const uint32_t word = static_cast<uint32_t>(philox_draw(index, keys, MultiplyWords{}));
  return static_cast<float>(word >> (32 - kUniformBits)) * kUniformStep;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
