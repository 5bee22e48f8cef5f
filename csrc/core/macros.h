// Names every other header builds on.
//
// CPU kernel sources are compiled once per instruction set. Everything they inline must stay private to
// that object: a weak copy made for AVX-512 could otherwise serve portable code. So plain data lives in
// `convkit`, functions of the core headers live in an inline namespace named after the instruction set,
// and tiny helpers are forced inline.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef CONVKIT_ISA
#define CONVKIT_ISA base
#endif

#ifdef __CUDACC__
#define CONVKIT_HOST_DEVICE __host__ __device__
#else
#define CONVKIT_HOST_DEVICE
#endif

#define CONVKIT_INLINE_HOST __attribute__((always_inline)) inline
#define CONVKIT_INLINE CONVKIT_INLINE_HOST CONVKIT_HOST_DEVICE
