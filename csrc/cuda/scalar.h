// The number types that the formulas are written in, on the GPU: one float or double, and one 32-bit word.
// The functions are CUDA's full-precision ones, right to an ulp or two; nothing here is compiled with fast math.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#ifndef AEVB_ISA
#define AEVB_ISA device
#endif
#include "formulas/numerics.h"

namespace aevb::device {

template <class T>
struct Scalar {
  static constexpr int digits = std::numeric_limits<T>::digits;
  T v;

  Scalar() = default;
  template <class U, class = std::enable_if_t<std::is_arithmetic_v<U>>>
  AEVB_INLINE explicit Scalar(U value) : v(static_cast<T>(value)) {}

  AEVB_INLINE Scalar operator-() const { return Scalar(-v); }

  friend AEVB_INLINE Scalar operator+(Scalar a, Scalar b) { return Scalar(a.v + b.v); }
  friend AEVB_INLINE Scalar operator-(Scalar a, Scalar b) { return Scalar(a.v - b.v); }
  friend AEVB_INLINE Scalar operator*(Scalar a, Scalar b) { return Scalar(a.v * b.v); }
  friend AEVB_INLINE Scalar operator/(Scalar a, Scalar b) { return Scalar(a.v / b.v); }
  friend AEVB_INLINE bool operator<(Scalar a, Scalar b) { return a.v < b.v; }
  friend AEVB_INLINE bool operator>(Scalar a, Scalar b) { return a.v > b.v; }
  friend AEVB_INLINE bool operator==(Scalar a, Scalar b) { return a.v == b.v; }

  friend AEVB_INLINE Scalar select(bool mask, Scalar a, Scalar b) { return mask ? a : b; }
};

using F32 = Scalar<float>;
using F64 = Scalar<double>;

__device__ __forceinline__ F32 abs(F32 a) { return F32(fabsf(a.v)); }
__device__ __forceinline__ F64 abs(F64 a) { return F64(fabs(a.v)); }
__device__ __forceinline__ F32 exp(F32 a) { return F32(expf(a.v)); }
__device__ __forceinline__ F64 exp(F64 a) { return F64(::exp(a.v)); }
__device__ __forceinline__ F32 log(F32 a) { return F32(logf(a.v)); }
__device__ __forceinline__ F64 log(F64 a) { return F64(::log(a.v)); }
__device__ __forceinline__ F32 log1p(F32 a) { return F32(log1pf(a.v)); }
__device__ __forceinline__ F64 log1p(F64 a) { return F64(::log1p(a.v)); }
__device__ __forceinline__ F32 sqrt(F32 a) { return F32(sqrtf(a.v)); }
__device__ __forceinline__ F64 sqrt(F64 a) { return F64(::sqrt(a.v)); }

// a b + c, rounded once: explicit where every path to a result has to round alike.
__device__ __forceinline__ F32 fma(F32 a, F32 b, F32 c) { return F32(fmaf(a.v, b.v, c.v)); }
__device__ __forceinline__ F64 fma(F64 a, F64 b, F64 c) { return F64(::fma(a.v, b.v, c.v)); }

// The sine and cosine of 2 pi t.
__device__ __forceinline__ void sincos_turns(F32 t, F32& sine, F32& cosine) { sincospif(2 * t.v, &sine.v, &cosine.v); }
__device__ __forceinline__ void sincos_turns(F64 t, F64& sine, F64& cosine) { sincospi(2 * t.v, &sine.v, &cosine.v); }

struct Word {
  uint32_t v;

  Word() = default;
  AEVB_INLINE explicit Word(uint32_t value) : v(value) {}
  friend AEVB_INLINE Word operator^(Word a, Word b) { return Word(a.v ^ b.v); }
  friend AEVB_INLINE Word select(bool mask, Word a, Word b) { return mask ? a : b; }
};

__device__ __forceinline__ void multiply(Word a, unsigned constant, Word& high, Word& low) {
  high.v = __umulhi(a.v, constant);
  low.v = a.v * constant;
}

// Whether a word is below a, compared exactly. A word truncated to 24 bits is below the same 24-bit numbers as the word
// itself; double represents all words.
__device__ __forceinline__ bool below(Word word, F32 a) { return __uint2float_rz(word.v) < a.v; }
__device__ __forceinline__ bool below(Word word, F64 a) { return static_cast<double>(word.v) < a.v; }

}  // namespace aevb::device
