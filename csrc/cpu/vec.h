// The number types of the CPU: a vector register of float, double or 32-bit words. They use the compiler's vector
// extension, so that one source serves every instruction set. No library headers are included here: an inline function
// compiled for AVX-512 must not be the copy that the linker keeps for all instruction sets.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "formulas/box_muller.h"

namespace aevb::AEVB_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int lanes>
struct RawVector {
  typedef T type __attribute__((vector_size(sizeof(T) * lanes)));
};
template <class T, int lanes>
using Raw = typename RawVector<T, lanes>::type;

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using type = int32_t;
  static constexpr int digits = 24;
};
template <>
struct Bits<double> {
  using type = int64_t;
  static constexpr int digits = 53;
};

template <class T>
struct Vec {
  using scalar = T;
  using integer = typename Bits<T>::type;
  static constexpr int digits = Bits<T>::digits;
  static constexpr int lanes = kVectorBytes / sizeof(T);
  using raw = Raw<T, lanes>;
  using mask = Raw<integer, lanes>;
  raw v;

  Vec() = default;
  AEVB_INLINE Vec(raw value) : v(value) {}
  AEVB_INLINE explicit Vec(double value) : v(T(value) - raw{}) {}

  // For formulas that take a number apart.
  AEVB_INLINE mask bits() const { return (mask)v; }
  static AEVB_INLINE Vec of_bits(mask bits) { return {(raw)bits}; }
  static AEVB_INLINE Vec of_integer(mask integers) { return {__builtin_convertvector(integers, raw)}; }

  AEVB_INLINE Vec operator-() const { return {-v}; }
  AEVB_INLINE friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  AEVB_INLINE friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  AEVB_INLINE friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  AEVB_INLINE friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  AEVB_INLINE friend mask operator<(Vec a, Vec b) { return a.v < b.v; }
  AEVB_INLINE friend mask operator>(Vec a, Vec b) { return a.v > b.v; }
  AEVB_INLINE friend mask operator==(Vec a, Vec b) { return a.v == b.v; }
  AEVB_INLINE friend Vec select(mask m, Vec a, Vec b) { return {m ? a.v : b.v}; }
  AEVB_INLINE friend Vec abs(Vec a) { return {(raw)((mask)a.v & ~(mask)(-raw{}))}; }

  // Whether any lane is set.
  static AEVB_INLINE bool any(mask m) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)m, (__m512i)m);
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)m);
#else
    integer all = 0;
    for (int i = 0; i < lanes; ++i) all |= m[i];
    return all;
#endif
  }

  AEVB_INLINE static Vec load(const T* p) {
    Vec r;
    memcpy(&r.v, p, sizeof(raw));
    return r;
  }
  AEVB_INLINE static Vec load(const T* p, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return {(raw)_mm512_maskz_loadu_ps((1 << count) - 1, p)};
#endif
    Vec r(0.0);
    memcpy(&r.v, p, count * sizeof(T));
    return r;
  }
  // Stores past the caches. For results too large to be found in the caches again this saves reading the cache lines
  // before they are written, and keeps the caches' content. `p` is aligned to the vector.
  AEVB_INLINE void stream(T* p) const {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#elif defined(__AVX2__)
    _mm256_stream_si256((__m256i*)p, (__m256i)v);
#elif defined(__SSE2__)
    _mm_stream_si128((__m128i*)p, (__m128i)v);
#else
    store(p);
#endif
  }
  // The first `count` lanes; the others are zero.
  AEVB_INLINE Vec first(int count) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return {(raw)_mm512_maskz_mov_ps((1 << count) - 1, (__m512)v)};
#endif
    Vec r(0.0);
    memcpy(&r.v, &v, count * sizeof(T));
    return r;
  }
  // The last `count` lanes; the others are those of another vector.
  AEVB_INLINE Vec last(int count, Vec others) const {
    mask ones;
    memcpy(&ones, &ends.zeros_and_ones[count], sizeof ones);
    return select(ones, *this, others);
  }
  AEVB_INLINE void store(T* p) const { memcpy(p, &v, sizeof(raw)); }
  AEVB_INLINE void store(T* p, int count) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, (1 << count) - 1, (__m512)v);
#endif
    memcpy(p, &v, count * sizeof(T));
  }

 private:
  struct Ends {
    integer zeros_and_ones[2 * lanes];
    constexpr Ends() : zeros_and_ones() {
      for (int i = lanes; i < 2 * lanes; ++i) zeros_and_ones[i] = -1;
    }
  };
  static constexpr Ends ends{};
};

using F32 = Vec<float>;
using F64 = Vec<double>;

// Completes streamed stores before anything that follows.
AEVB_INLINE void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// a b + c, rounded once if the instruction set has it. The compiler contracts nothing itself (-ffp-contract=off): that
// would depend on the surrounding code, and the same gradient would differ from one kernel to another.
template <class T>
AEVB_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  using raw = typename Vec<T>::raw;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return {(raw)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v)};
  if constexpr (sizeof(T) == 8) return {(raw)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v)};
#elif defined(__FMA__)
  if constexpr (sizeof(T) == 4) return {(raw)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v)};
  if constexpr (sizeof(T) == 8) return {(raw)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v)};
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) return {(raw)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)};
  if constexpr (sizeof(T) == 8) return {(raw)vfmaq_f64((float64x2_t)c.v, (float64x2_t)a.v, (float64x2_t)b.v)};
#else
  return {raw(a.v * b.v + c.v)};
#endif
}

template <class T>
AEVB_INLINE Vec<T> sqrt(Vec<T> a) {
  Vec<T> r;
  for (int i = 0; i < Vec<T>::lanes; ++i) {
    if constexpr (sizeof(T) == 4)
      r.v[i] = __builtin_sqrtf(a.v[i]);
    else
      r.v[i] = __builtin_sqrt(a.v[i]);
  }
  return r;
}

// float64 is for checking, not for speed: libm, lane by lane.
AEVB_INLINE F64 exp(F64 a) {
  for (int i = 0; i < F64::lanes; ++i) a.v[i] = __builtin_exp(a.v[i]);
  return a;
}
AEVB_INLINE F64 log(F64 a) {
  for (int i = 0; i < F64::lanes; ++i) a.v[i] = __builtin_log(a.v[i]);
  return a;
}
AEVB_INLINE F64 log1p(F64 a) {
  for (int i = 0; i < F64::lanes; ++i) a.v[i] = __builtin_log1p(a.v[i]);
  return a;
}
AEVB_INLINE void sincos_turns(F64 t, F64& sine, F64& cosine) {
  constexpr double two_pi = 6.283185307179586477;
  for (int i = 0; i < F64::lanes; ++i) {
    sine.v[i] = __builtin_sin(two_pi * t.v[i]);
    cosine.v[i] = __builtin_cos(two_pi * t.v[i]);
  }
}

// float32: the polynomials of the Cephes library (S. Moshier), 1 to 2 ulp.

AEVB_INLINE F32::mask to_int(F32 a) { return __builtin_convertvector(a.v, F32::mask); }

// The smaller of a number and x. NaN passes.
AEVB_INLINE F32 at_most(double high, F32 x) {
  const F32::raw most = F32(high).v;
#if defined(__AVX512F__)
  return {(F32::raw)_mm512_maskz_min_ps(0xffff, (__m512)most, (__m512)x.v)};
#elif defined(__AVX2__)
  return {(F32::raw)_mm256_min_ps((__m256)most, (__m256)x.v)};
#elif defined(__SSE2__)
  return {(F32::raw)_mm_min_ps((__m128)most, (__m128)x.v)};
#else
  return select(x > F32(most), F32(most), x);
#endif
}

// x clamped to these limits. NaN passes, because it is the second operand of these instructions.
AEVB_INLINE F32 between(double low, double high, F32 x) {
  const F32::raw least = F32(low).v;
#if defined(__AVX512F__)
  return at_most(high, {(F32::raw)_mm512_maskz_max_ps(0xffff, (__m512)least, (__m512)x.v)});
#elif defined(__AVX2__)
  return at_most(high, {(F32::raw)_mm256_max_ps((__m256)least, (__m256)x.v)});
#elif defined(__SSE2__)
  return at_most(high, {(F32::raw)_mm_max_ps((__m128)least, (__m128)x.v)});
#else
  return at_most(high, select(x < F32(least), F32(least), x));
#endif
}

// e^(factor x) = (1 + q) 2^n for integer n and |q| < 0.42, where factor is a power of two or minus one.
struct SplitExp {
  F32 q, n;
  F32::mask power;  // n + `bias` in its lowest nine bits, which are those of a sign and an exponent

  AEVB_INLINE SplitExp(double factor, F32 x, int bias) {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const double rounder = 12582912 + bias;
    const F32 shifted = fma(x, F32(1.44269504088896341 * factor), F32(rounder));
    power = shifted.bits();
    n = shifted - F32(rounder);
    // q is a polynomial of factor r: e^r - 1 to 3e-9 of e^r.
    const F32 r = fma(n, F32(2.12194440e-4 / factor), fma(n, F32(-0.693359375 / factor), x));
    const double f2 = factor * factor;
    const double c[] = {0.4999999342932429 * f2, 0.1666652004935084 * f2 * factor, 0.041668390638669874 * f2 * f2,
                        0.008368789657294234 * f2 * f2 * factor, 0.0013814680726039258 * f2 * f2 * f2};
    q = fma(polynomial(r, c), r * r, F32(factor) * r);
  }
};

// 2^k for an integer k in the lowest nine bits, to which 127 was added.
AEVB_INLINE F32 power_of_two(F32::mask biased) { return F32::of_bits(biased << 23); }

// p 2^n, where 2^n alone may underflow or overflow. The bias is 254, of which half belongs to each of two factors.
AEVB_INLINE F32 scaled(F32 p, const SplitExp& e) {
#if defined(__AVX512F__)
  return {(F32::raw)_mm512_maskz_scalef_ps(0xffff, (__m512)p.v, (__m512)e.n.v)};
#else
  const F32::mask half = e.power >> 1;
  return p * power_of_two(half) * power_of_two(e.power - half);
#endif
}

// x within the limits beyond which e^(factor x) is 0 or infinity.
AEVB_INLINE F32 for_exp_of(double factor, F32 x) {
  return between((factor < 0 ? 89 : -105) / factor, (factor < 0 ? -105 : 89) / factor, x);
}

AEVB_INLINE F32 exp_of(double factor, F32 x) {
  const SplitExp e(factor, for_exp_of(factor, x), 254);
  return scaled(e.q + F32(1.0), e);
}
AEVB_INLINE F32 exp(F32 x) { return exp_of(1, x); }

// e^-|x|
AEVB_INLINE F32 exp_of_minus_abs(F32 x) {
  // 2^n is at least 2^-152; the product with 2^64 is a normal number.
  const SplitExp e(-1, at_most(105, abs(x)), 127 + 64);
#if defined(__AVX512F__)
  return scaled(e.q + F32(1.0), e);
#else
  return (e.q + F32(1.0)) * power_of_two(e.power) * F32(0x1p-64);
#endif
}

// e^x - 1 for x <= 0. For n = 0 it is q.
AEVB_INLINE F32 expm1_of_negative(F32 x) {
  const SplitExp e(1, between(-80, 0, x), 127);
  const F32 power = power_of_two(e.power);
  return fma(e.q, power, power - F32(1.0));
}

// Each is as exact as from exp: the square includes the rounding error of 1 + q.
AEVB_INLINE void exp_and_square(double factor, F32 x, F32& e, F32& square) {
  const SplitExp split(factor, for_exp_of(factor, x), 254);
  F32 p = split.q + F32(1.0), lost = split.q - (p - F32(1.0));
  e = scaled(p, split);
  square = scaled(scaled(fma(p, p, (p + p) * lost), split), split);
}

AEVB_INLINE F32 log(F32 x) {
  constexpr float infinity = __builtin_inff();
  F32::mask tiny = x < F32(1.17549435e-38);
  F32 scaled = select(tiny, x * F32(8388608.0), x);
  // x = m 2^e with m in [sqrt(1/2), sqrt(2)), whose lower end has these bits.
  F32::mask bits = (F32::mask)scaled.v;
  F32::mask power = (bits - 0x3f3504f3) >> 23;
  F32 m = {(F32::raw)(bits - (power << 23))};
  F32 e = {__builtin_convertvector(tiny ? power - 23 : power, F32::raw)};
  F32 f = m - F32(1.0), z = f * f;
  constexpr double c[] = {3.3333331174e-1,  -2.4999993993e-1, 2.0000714765e-1,  -1.6668057665e-1, 1.4249322787e-1,
                          -1.2420140846e-1, 1.1676998740e-1,  -1.1514610310e-1, 7.0376836292e-2};
  F32 y = fma(F32(-0.5), z, fma(e, F32(-2.12194440e-4), polynomial(f, c) * f * z));
  F32 r = fma(e, F32(0.693359375), f + y);
  r = select(x > F32(0.0), r, F32(__builtin_nanf("")));
  r = select(x == F32(0.0), F32(-infinity), r);
  return select(x == F32(infinity), x, r);
}

// For -1 < t <= 1: the logarithm of the rounded 1 + t, plus a correction for the rounding.
AEVB_INLINE F32 log1p(F32 t) {
  F32 u = F32(1.0) + t;
  return log(u) + (t - (u - F32(1.0))) / u;
}

AEVB_INLINE F32 root(F32 x) { return sqrt(x); }
AEVB_INLINE void sincos_turns(F32 t, F32& sine, F32& cosine) { float_sincos_turns(t, sine, cosine); }

// 32-bit words for Philox: each is the low half of a 64-bit lane, which has room for a product. The high half is
// ignored. There are several registers of them, so that one chain of rounds computes while others wait.
using Wide = Raw<uint64_t, kVectorBytes / 8>;
struct Word {
  static constexpr int parts = kVectorBytes == 64 ? 4 : 2;  // as many as there are registers for
  static constexpr int lanes = parts * kVectorBytes / 8;
  Wide part[parts];

  Word() = default;
  AEVB_INLINE explicit Word(uint32_t value) {
    for (Wide& p : part) p = uint64_t(value) - Wide{};
  }
  AEVB_INLINE friend Word operator^(Word a, const Word& b) {
    for (int k = 0; k < parts; ++k) a.part[k] ^= b.part[k];
    return a;
  }
};

// One word for every lane.
struct EveryWord {
  Wide v;

  EveryWord() = default;
  AEVB_INLINE explicit EveryWord(uint32_t value) : v(uint64_t(value) - Wide{}) {}
  AEVB_INLINE friend Word operator^(Word a, const EveryWord& b) {
    for (Wide& p : a.part) p ^= b.v;
    return a;
  }
};

// The 64-bit products of the low halves of 64-bit lanes: an instruction that the compiler does not generate by itself.
AEVB_INLINE Wide multiply_low_halves(Wide a, Wide b) {
#if defined(__AVX512F__)
  return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);  // plain mul_epu32 makes GCC 12 warn
#elif defined(__AVX2__)
  return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Wide)_mm_mul_epu32((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  return (Wide)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

AEVB_INLINE void multiply(const Word& a, uint32_t constant, Word& high, Word& low) {
  const Wide factor = uint64_t(constant) - Wide{};
  for (int k = 0; k < Word::parts; ++k) {
    low.part[k] = multiply_low_halves(a.part[k], factor);
    high.part[k] = low.part[k] >> 32;
  }
}

using U32x = Raw<uint32_t, F32::lanes>;

// The low halves of a and of b, interleaved.
AEVB_INLINE U32x pair_low_halves(Wide a, Wide b) { return (U32x)((a & 0xffffffffu) | (b << 32)); }

// A byte for each word: 1 if the word is below a, compared exactly, without rounding; 0 otherwise, and if a is NaN.
AEVB_INLINE void store_below(U32x word, F32 a, uint8_t* to) {
#if defined(__AVX512F__)
  // A word truncated to 24 bits is below the same 24-bit numbers as the word itself.
  const __m512 cut = _mm512_maskz_cvt_roundepu32_ps(0xffff, (__m512i)word, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  const __mmask16 ones = _mm512_cmp_ps_mask(cut, (__m512)a.v, _CMP_LT_OQ);
  _mm_storeu_si128((__m128i*)to, _mm_maskz_set1_epi8(ones, 1));
#else
  // a rounded up, in two halves that each fit the signed conversion; values outside the words' range are handled apart.
  const F32::mask high = to_int(a * F32(0x1p-16));
  const F32 rest = a - F32(__builtin_convertvector(high, F32::raw)) * F32(0x1p16);
  const F32::mask low = to_int(rest);
  const F32::mask above = F32(__builtin_convertvector(low, F32::raw)) < rest;
  const U32x limit = (U32x)((high << 16) + low - above);
  const F32::mask ones = (a > F32(4294967040.0)) | ((a > F32(0.0)) & (word < limit));
  const auto bytes = __builtin_convertvector(ones & 1, Raw<uint8_t, F32::lanes>);
  memcpy(to, &bytes, sizeof bytes);
#endif
}

// Of every four elements of a and b, a0 a1 a2 a3 and b0 b1 b2 b3 -> a0 b0 a1 b1 and a2 b2 a3 b3.
AEVB_INLINE void interleave_fours(F32& a, F32& b) {
  constexpr int lanes = F32::lanes;
#if defined(__clang__)
  F32::raw low, high;
  for (int i = 0; i < lanes; ++i) {
    const int from = i / 4 * 4 + i % 4 / 2;
    low[i] = (i % 2 ? b.v : a.v)[from];
    high[i] = (i % 2 ? b.v : a.v)[from + 2];
  }
#else
  F32::mask from;
  for (int i = 0; i < lanes; ++i) from[i] = i / 4 * 4 + i % 4 / 2 + i % 2 * lanes;
  const auto low = __builtin_shuffle(a.v, b.v, from), high = __builtin_shuffle(a.v, b.v, from + 2);
#endif
  a.v = low;
  b.v = high;
}

// Halves are added to halves.
template <class T, int lanes>
AEVB_INLINE T sum_of(Raw<T, lanes> v) {
  if constexpr (lanes == 2) {
    return v[0] + v[1];
  } else {
    Raw<T, lanes / 2> half[2];
    memcpy(half, &v, sizeof v);
    return sum_of<T, lanes / 2>(half[0] + half[1]);
  }
}
template <class T>
AEVB_INLINE T sum(Vec<T> a) {
  return sum_of<T, Vec<T>::lanes>(a.v);
}

}  // namespace aevb::AEVB_ISA
