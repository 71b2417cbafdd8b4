// What the GPU's special-function unit computes in one instruction, with the bounds of the PTX ISA. Numbers below the
// normal ones are taken for 0, but by log2 and exp2_of_any, which take some instructions more. The compiler's pass for
// the host has the functions themselves.
#pragma once
#include <cuda_runtime.h>

#include <cmath>

#ifdef __CUDA_ARCH__
#define AEVB_SPECIAL(instruction, relative, absolute, exact) \
  float result;                                              \
  asm(instruction " %0, %1;" : "=f"(result) : "f"(a));       \
  return result
#elif !defined(AEVB_SPECIAL)  // tests/emulation has one that errs by as much as the bounds allow
#define AEVB_SPECIAL(instruction, relative, absolute, exact) return exact
#endif

namespace aevb::device::special {

// 2^a
__device__ __forceinline__ float exp2(float a) { AEVB_SPECIAL("ex2.approx.ftz.f32", 0x1p-22, 0, exp2f(a)); }
__device__ __forceinline__ float exp2_of_any(float a) { AEVB_SPECIAL("ex2.approx.f32", 0x1p-22, 0, exp2f(a)); }
// log2 a: the absolute error is that of 1/2 < a < 2, and the relative one that of all others.
__device__ __forceinline__ float log2(float a) { AEVB_SPECIAL("lg2.approx.f32", 0x1p-22, 0x1p-22, log2f(a)); }
__device__ __forceinline__ float log2_of_normal(float a) {
  AEVB_SPECIAL("lg2.approx.ftz.f32", 0x1p-22, 0x1p-22, log2f(a));
}
// 1 / a
__device__ __forceinline__ float reciprocal(float a) { AEVB_SPECIAL("rcp.approx.ftz.f32", 0x1p-23, 0, 1 / a); }
__device__ __forceinline__ float sqrt(float a) { AEVB_SPECIAL("sqrt.approx.ftz.f32", 0x1p-23, 0, sqrtf(a)); }
// For |a| <= 2 pi.
__device__ __forceinline__ float sin(float a) { AEVB_SPECIAL("sin.approx.ftz.f32", 0, 0x1p-20, sinf(a)); }
__device__ __forceinline__ float cos(float a) { AEVB_SPECIAL("cos.approx.ftz.f32", 0, 0x1p-20, cosf(a)); }

}  // namespace aevb::device::special
