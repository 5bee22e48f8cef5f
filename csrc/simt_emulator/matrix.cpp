#include "simt_emulator/matrix.h"

#include <cmath>
#include <cstring>

#include "simt_emulator/block.h"

namespace convkit::simt {
namespace {

constexpr int kMatrices = 4, kRows = 8, kRowBytes = 16;
constexpr int kM = 16, kN = 8, kWords = 8;  // 32-bit words in a row of A and a column of B

struct Load {
  const void* row;
  uint32_t* registers;
};

struct Product {
  Multiplicand type;
  float* d;
  const uint32_t *a, *b;
};

template <typename T>
T value_of(uint32_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float from_half(uint32_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu, mantissa = h & 0x3ffu;
  if (exponent == 0x1fu) return value_of<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return value_of<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  return sign != 0 ? -magnitude : magnitude;
}

// The elements of a word, as numbers; returns how many.
int unpack(Multiplicand type, uint32_t word, float* to) {
  switch (type) {
    case Multiplicand::kTf32: to[0] = value_of<float>(word & 0xffffe000u); return 1;
    case Multiplicand::kBFloat16:
      to[0] = value_of<float>(word << 16);
      to[1] = value_of<float>(word & 0xffff0000u);
      return 2;
    case Multiplicand::kFloat16:
      to[0] = from_half(word & 0xffffu);
      to[1] = from_half(word >> 16);
      return 2;
  }
  return 0;
}

float truncate(double value) {
  const float nearest = static_cast<float>(value);
  if (!(std::fabs(static_cast<double>(nearest)) > std::fabs(value))) return nearest;  // or it is NaN
  uint32_t bits;
  std::memcpy(&bits, &nearest, sizeof(bits));
  return value_of<float>(bits - 1);  // the next one towards zero
}

const char* fault_of(const void* row) {
  if (!is_shared(row, kRowBytes)) return "outside of shared memory";
  return reinterpret_cast<uintptr_t>(row) % kRowBytes != 0 ? "misaligned" : nullptr;
}

template <bool kTransposed>
void load(void* const (&lanes)[kWarp]) {
  uint16_t words[kMatrices][kRows][kRowBytes / 2];
  for (int l = 0; l < kWarp; ++l)
    std::memcpy(words[l / kRows][l % kRows], static_cast<const Load*>(lanes[l])->row, kRowBytes);
  for (int l = 0; l < kWarp; ++l)
    for (int i = 0; i < kMatrices; ++i) {
      const int r = l / 4, c = l % 4 * 2;
      const uint32_t low = kTransposed ? words[i][c][r] : words[i][r][c];
      const uint32_t high = kTransposed ? words[i][c + 1][r] : words[i][r][c + 1];
      static_cast<const Load*>(lanes[l])->registers[i] = low | high << 16;
    }
}

// In doubles: all products of a pair of elements are exact in them.
void multiply(void* const (&lanes)[kWarp]) {
  double a[kM][2 * kWords], b[2 * kWords][kN], d[kM][kN];
  int count = 0;
  for (int l = 0; l < kWarp; ++l) {
    const Product& p = *static_cast<const Product*>(lanes[l]);
    const int group = l / 4, place = l % 4, each = p.type == Multiplicand::kTf32 ? 1 : 2;
    count = each * kWords;
    float pair[2];
    for (int i = 0; i < 4; ++i)
      for (int j = unpack(p.type, p.a[i], pair) - 1; j >= 0; --j)
        a[group + i % 2 * 8][(place + i / 2 * 4) * each + j] = static_cast<double>(pair[j]);
    for (int i = 0; i < 2; ++i)
      for (int j = unpack(p.type, p.b[i], pair) - 1; j >= 0; --j)
        b[(place + i * 4) * each + j][group] = static_cast<double>(pair[j]);
    for (int i = 0; i < 4; ++i) d[group + i / 2 * 8][place * 2 + i % 2] = static_cast<double>(p.d[i]);
  }
  for (int m = 0; m < kM; ++m)
    for (int k = 0; k < count; ++k)
      for (int n = 0; n < kN; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int l = 0; l < kWarp; ++l)
    for (int i = 0; i < 4; ++i)
      static_cast<const Product*>(lanes[l])->d[i] = truncate(d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2]);
}

}  // namespace

void load_matrices(const void* row, uint32_t (&registers)[4], bool transposed, const char* site) {
  if (const char* fault = fault_of(row)) fail("ldmatrix at %s: the row of lane %u is %s", site, lane(), fault);
  Load operand{row, registers};
  warp_together(&operand, transposed ? &load<true> : &load<false>, site);
}

void multiply_matrices(Multiplicand type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       const char* site) {
  Product operand{type, d, a, b};
  warp_together(&operand, &multiply, site);
}

float round_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
  return value_of<float>(bits);
}

}  // namespace convkit::simt
