// The number types that the formulas are written in, on the GPU: one float or double, and one 32-bit word.
//
// Functions of F32 and F64 are right to an ulp or two, and nothing is compiled with fast math. Functions of Quick,
// which is the arithmetic of half precision, take the special-function unit's word: they are right to some 30 ulp of
// float32, which is a thousandth of an ulp of bfloat16 and a hundredth of one of float16.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#ifndef AEVB_ISA
#define AEVB_ISA device
#endif
#include "cuda/special.h"
#include "formulas/box_muller.h"

namespace aevb::device {

template <class T, bool quick = false>
struct Scalar {
  static constexpr int digits = quick ? 12 : std::numeric_limits<T>::digits;
  static constexpr bool of_a_thread = true;
  T v;

  Scalar() = default;
  template <class U, class = std::enable_if_t<std::is_arithmetic_v<U>>>
  AEVB_INLINE explicit Scalar(U value) : v(static_cast<T>(value)) {}

  // For formulas that take a float apart.
  __device__ __forceinline__ int32_t bits() const { return __float_as_int(v); }
  static __device__ __forceinline__ Scalar of_bits(int32_t bits) { return Scalar(__int_as_float(bits)); }
  static __device__ __forceinline__ Scalar of_integer(int32_t integer) { return Scalar(integer); }

  AEVB_INLINE Scalar operator-() const { return Scalar(-v); }

  friend AEVB_INLINE Scalar operator+(Scalar a, Scalar b) { return Scalar(a.v + b.v); }
  friend AEVB_INLINE Scalar operator-(Scalar a, Scalar b) { return Scalar(a.v - b.v); }
  friend AEVB_INLINE Scalar operator*(Scalar a, Scalar b) { return Scalar(a.v * b.v); }
  friend AEVB_INLINE Scalar operator/(Scalar a, Scalar b) { return Scalar(a.v / b.v); }
  friend AEVB_INLINE bool operator<(Scalar a, Scalar b) { return a.v < b.v; }
  friend AEVB_INLINE bool operator>(Scalar a, Scalar b) { return a.v > b.v; }
  friend AEVB_INLINE bool operator==(Scalar a, Scalar b) { return a.v == b.v; }

  // Where a vector asks whether any of its lanes is set, a thread has a branch.
  static AEVB_INLINE bool any(bool mask) { return mask; }

  friend AEVB_INLINE Scalar select(bool mask, Scalar a, Scalar b) { return mask ? a : b; }
};

using F32 = Scalar<float>;
using F64 = Scalar<double>;
using Quick = Scalar<float, true>;
template <bool quick>
using Float = Scalar<float, quick>;

template <bool quick>
__device__ __forceinline__ Float<quick> abs(Float<quick> a) {
  return Float<quick>(fabsf(a.v));
}
__device__ __forceinline__ F64 abs(F64 a) { return F64(fabs(a.v)); }
// The larger one; of a NaN and a number, the number.
template <bool quick>
__device__ __forceinline__ Float<quick> max(Float<quick> a, Float<quick> b) {
  return Float<quick>(fmaxf(a.v, b.v));
}
__device__ __forceinline__ F64 max(F64 a, F64 b) { return F64(fmax(a.v, b.v)); }

__device__ __forceinline__ F32 exp(F32 a) { return F32(expf(a.v)); }
__device__ __forceinline__ F64 exp(F64 a) { return F64(::exp(a.v)); }
__device__ __forceinline__ Quick exp_of(double factor, Quick a) {
  return Quick(special::exp2(a.v * static_cast<float>(factor * 1.4426950408889634)));
}
__device__ __forceinline__ Quick exp(Quick a) { return exp_of(1, a); }
__device__ __forceinline__ Quick inverse_exp_of(double factor, Quick a) {
  return Quick(special::exp2_of_any(a.v * static_cast<float>(-factor * 1.4426950408889634)));
}
__device__ __forceinline__ F32 log(F32 a) { return F32(logf(a.v)); }
__device__ __forceinline__ F64 log(F64 a) { return F64(::log(a.v)); }
__device__ __forceinline__ F32 log_of_smaller_part(F32 a) { return F32(0.693147181f * special::log2(a.v)); }
// Times 2^8 no number of half precision is below the normal ones of float32.
__device__ __forceinline__ Quick log_of_smaller_part(Quick a) {
  return Quick(fmaf(special::log2_of_normal(a.v * 0x1p8f), 0.693147181f, -8 * 0.693147181f));
}
// Near 1, where that unit is right to 2e-7 but not to an ulp, no formula of half precision takes a logarithm alone.
__device__ __forceinline__ Quick log(Quick a) { return Quick(0.693147181f * special::log2(a.v)); }
template <bool quick>
__device__ __forceinline__ Float<quick> log1p(Float<quick> a) {
  return Float<quick>(log1pf(a.v));
}
__device__ __forceinline__ F64 log1p(F64 a) { return F64(::log1p(a.v)); }
template <bool quick>
__device__ __forceinline__ Float<quick> sqrt(Float<quick> a) {
  return Float<quick>(sqrtf(a.v));
}
__device__ __forceinline__ F64 sqrt(F64 a) { return F64(::sqrt(a.v)); }

// e^-a and 1 - e^-a of a >= 0, each right to its last digits.
__device__ __forceinline__ void exp_of_minus(F32 a, F32& e, F32& rest) {
  e = F32(expf(-a.v));
  rest = F32(-expm1f(-a.v));
}
__device__ __forceinline__ void exp_of_minus(F64 a, F64& e, F64& rest) {
  e = F64(::exp(-a.v));
  rest = F64(-::expm1(-a.v));
}

// A quotient of normal numbers: the unit's reciprocal, and one step of Newton's.
__device__ __forceinline__ F32 ratio(F32 a, F32 b) {
  const float inverse = special::reciprocal(b.v), quotient = a.v * inverse;
  return F32(fmaf(fmaf(-b.v, quotient, a.v), inverse, quotient));
}
__device__ __forceinline__ Quick ratio(Quick a, Quick b) { return Quick(a.v * special::reciprocal(b.v)); }

// a b + c, rounded once: explicit where every path to a result has to round alike.
template <bool quick>
__device__ __forceinline__ Float<quick> fma(Float<quick> a, Float<quick> b, Float<quick> c) {
  return Float<quick>(fmaf(a.v, b.v, c.v));
}
__device__ __forceinline__ F64 fma(F64 a, F64 b, F64 c) { return F64(::fma(a.v, b.v, c.v)); }

// The square is right to 4 ulp, for a product in place of an exponential.
template <bool quick>
__device__ __forceinline__ void exp_and_square(double factor, Float<quick> x, Float<quick>& e, Float<quick>& square) {
  e = exp_of(factor, x);
  square = e * e;
}

// A square root of 0 or a normal number.
__device__ __forceinline__ F32 root(F32 a) { return F32(special::sqrt(a.v)); }

__device__ __forceinline__ void sincos_turns(F32 t, F32& sine, F32& cosine) { float_sincos_turns(t, sine, cosine); }
__device__ __forceinline__ void sincos_turns(F64 t, F64& sine, F64& cosine) { sincospi(2 * t.v, &sine.v, &cosine.v); }
// Box-Muller on the special-function unit: the radius to 1.3e-5, relative, and sine and cosine to 2e-6, absolute.
__device__ __forceinline__ void box_muller(Quick a, Quick b, Quick& first, Quick& second) {
  const float u = fmaf(a.v, 0x1p-32f, 0x1p-33f), rest = 1.0f - u;
  // -2 log u, near u = 1 by its series: the unit's logarithm is right to an absolute error there.
  const float far = -1.38629436f * special::log2_of_normal(u), near = rest * (2.0f + rest);
  const float radius = special::sqrt(rest < 0x1p-7f ? near : far), angle = b.v * (6.28318531f * 0x1p-32f);
  first.v = radius * special::cos(angle), second.v = radius * special::sin(angle);
}

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
template <bool quick>
__device__ __forceinline__ bool below(Word word, Float<quick> a) {
  return __uint2float_rz(word.v) < a.v;
}
__device__ __forceinline__ bool below(Word word, F64 a) { return static_cast<double>(word.v) < a.v; }

}  // namespace aevb::device
