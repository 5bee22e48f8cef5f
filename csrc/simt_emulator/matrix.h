// The tensor cores' instructions: what a warp does together, in the fragment layouts of the PTX ISA.
//
// Lane l is (group l / 4, place l % 4). The 32-bit registers of a lane hold, two 16-bit elements (p, p + 1) or one
// 32-bit element in each:
//   ldmatrix   register i: row `group`, word `place` of the 8 x 16 bytes of matrix i, whose row r has the address that
//              lane 8 i + r brings; transposed: row `group` of the matrix of 16-bit elements turned
//   mma        A, 16 rows: registers 0 to 3 hold rows (group, group + 8, group, group + 8) and, of the eight 32-bit
//              words of a row, those at (place, place, place + 4, place + 4)
//              B, 8 columns: registers 0 and 1 hold column `group`, words place and place + 4
//              D, 16 x 8: rows (group, group, group + 8, group + 8), columns (2 place, 2 place + 1) twice
#pragma once

#include <cstdint>

namespace convkit::simt {

void load_matrices(const void* row, uint32_t (&registers)[4], bool transposed, const char* site);

// D += A B. The sum of an instruction's products is exact, and truncated to float32 once: no GPU promises to round.
enum class Multiplicand { kBFloat16, kFloat16, kTf32 };  // 16 of the 16-bit types to a row of A, 8 of kTf32
void multiply_matrices(Multiplicand type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       const char* site);

// cvt.rna.tf32.f32: to 10 bits of mantissa, to nearest, ties away from zero. mma itself ignores the bits beyond.
float round_tf32(float value);

}  // namespace convkit::simt
