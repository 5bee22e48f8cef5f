// What the processor this runs on can do.
#pragma once

namespace convkit::cpu {

// Whether it runs code compiled for the instruction set of that name (portable, avx2, avx512).
bool processor_supports(const char* instruction_set);

}  // namespace convkit::cpu
