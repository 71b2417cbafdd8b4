// Copies between tensors in memory (any dtype, any strides) and buffers in the first-level cache: a formula only sees
// contiguous float or double. An operand that is contiguous in that type already is used in place.
#pragma once
#include <type_traits>

#include "call.h"
#include "cpu/vec.h"

namespace aevb::AEVB_ISA {

// Elements of a buffer: a dozen buffers fit the first-level cache.
constexpr int kChunk = 512;

// Buffers have room for one more vector, so that the last, partial vector can be read as a whole one.
template <class T>
struct alignas(64) Buffer {
  T data[kChunk + 16];
};

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

using U16x = Raw<uint16_t, F32::lanes>;

// Zeros in front. (The compiler's own conversion of vectors takes these instructions apart.)
AEVB_INLINE U32x extended(const uint16_t* p) {
#if defined(__AVX512F__)
  return (U32x)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (U32x)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  U16x h;
  memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, U32x);
#endif
}
AEVB_INLINE U32x extended(const uint8_t* p) {
#if defined(__AVX512F__)
  return (U32x)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (U32x)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  Raw<uint8_t, F32::lanes> b;
  memcpy(&b, p, sizeof b);
  return __builtin_convertvector(b, U32x);
#endif
}

AEVB_INLINE F32 widen(const BFloat16* p) { return {(F32::raw)(extended(&p->bits) << 16)}; }
AEVB_INLINE F32 widen(const uint8_t* p) { return {__builtin_convertvector((F32::mask)extended(p), F32::raw)}; }

AEVB_INLINE F32 widen(const Half* p) {
#if defined(__AVX512F__)
  return {(F32::raw)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p))};
#elif defined(__F16C__)
  return {(F32::raw)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))};
#else
  // The exponent is rebiased by a product, which turns subnormal halves into normal floats as well.
  U32x u = extended(&p->bits);
  U32x magnitude = u & 0x7fff;
  U32x finite = (U32x)((F32::raw)(magnitude << 13) * 0x1p112f);
  U32x special = (magnitude << 13) | 0x7f800000u;
  return {(F32::raw)((magnitude >= 0x7c00 ? special : finite) | ((u & 0x8000) << 16))};
#endif
}

AEVB_INLINE void shortened(U32x u, uint16_t* p) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)u));
#else
  U16x h = __builtin_convertvector(u, U16x);
  memcpy(p, &h, sizeof h);
#endif
}

// Round to nearest even; NaN stays NaN.
AEVB_INLINE void narrow(F32 a, BFloat16* p) {
  U32x u = (U32x)a.v, cut = u >> 16;
  U32x rounded = (u + ((cut & 1) + 0x7fff)) >> 16;
  shortened(a.v == a.v ? rounded : cut | 0x40, &p->bits);
}

AEVB_INLINE void narrow(F32 a, Half* p) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_maskz_cvtps_ph(0xffff, (__m512)a.v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)a.v, _MM_FROUND_TO_NEAREST_INT));
#else
  U32x bits = (U32x)a.v, sign = bits & 0x80000000u, u = bits ^ sign;
  // Normal halves: rebias the exponent and round. Subnormal ones: adding 1/2 lines the bits up and rounds.
  U32x normal = (u - 0x38000000u + 0xfff + ((u >> 13) & 1)) >> 13;
  U32x subnormal = (U32x)((F32::raw)u + 0.5f) - 0x3f000000u;
  U32x special = u > 0x7f800000u ? U32x{} + 0x7e00 : U32x{} + 0x7c00;
  U32x r = u >= 0x47800000u ? special : (u < 0x38800000u ? subnormal : normal);
  shortened(r | (sign >> 16), &p->bits);
#endif
}

// A finite gradient that overflows its dtype becomes the dtype's largest number, since infinity would become NaN as
// soon as it is multiplied by zero. A gradient that is infinite in the arithmetic itself stays infinite.
AEVB_INLINE void narrow_gradient(F32 a, Half* p) {
  narrow(select(abs(a) == F32(__builtin_inff()), a, between(-65504.0, 65504.0, a)), p);
}
AEVB_INLINE void narrow_gradient(F32 a, BFloat16* p) {
  U32x u = (U32x)between(-0x1.fep127, 0x1.fep127, a).v;
  U32x rounded = (u + ((u >> 16 & 1) + 0x7fff)) >> 16;
  // A NaN made by arithmetic is a NaN by its upper half already.
  shortened(abs(a) < F32(__builtin_inff()) ? rounded : (U32x)a.v >> 16, &p->bits);
}

// Whether whole vectors of a type are converted as they are loaded and stored.
template <class W>
AEVB_INLINE bool converts(Type type) {
  return sizeof(W) == 4 ? type != Type::f64 : type == Type::f64;
}

// A vector of elements i, i + 1, ... of an array of such a type.
template <class W>
AEVB_INLINE Vec<W> load_from(Type type, const void* base, int64_t i) {
  if constexpr (sizeof(W) == 4) {
    if (type == Type::bf16) return widen(static_cast<const BFloat16*>(base) + i);
    if (type == Type::f16) return widen(static_cast<const Half*>(base) + i);
    if (type == Type::u8) return widen(static_cast<const uint8_t*>(base) + i);
  }
  return Vec<W>::load(static_cast<const W*>(base) + i);
}
// Stores a vector of a result over rows, which has the arithmetic's type or is a gradient.
template <class W>
AEVB_INLINE void store_to(Type type, void* base, int64_t i, Vec<W> v) {
  if constexpr (sizeof(W) == 4) {
    if (type == Type::bf16) return narrow_gradient(v, static_cast<BFloat16*>(base) + i);
    if (type == Type::f16) return narrow_gradient(v, static_cast<Half*>(base) + i);
  }
  v.store(static_cast<W*>(base) + i);
}

// The same for `count` elements only.
template <class W>
Vec<W> load_from(Type type, const void* base, int64_t i, int count) {
  alignas(64) char whole[kVectorBytes] = {};
  memcpy(whole, static_cast<const char*>(base) + i * size_of(type), count * size_of(type));
  return load_from<W>(type, whole, 0);
}
template <class W>
void store_to(Type type, void* base, int64_t i, Vec<W> v, int count) {
  alignas(64) char whole[kVectorBytes];
  store_to(type, whole, 0, v);
  memcpy(static_cast<char*>(base) + i * size_of(type), whole, count * size_of(type));
}

template <class W, class T>
AEVB_INLINE W widen_one(T a) {
  return W(a);
}
template <class W>
AEVB_INLINE W widen_one(BFloat16 a) {
  BFloat16 run[F32::lanes] = {a};
  return widen(run).v[0];
}
template <class W>
AEVB_INLINE W widen_one(Half a) {
  Half run[F32::lanes] = {a};
  return widen(run).v[0];
}

// Gathers `count` numbers, `stride` apart, to contiguous ones of the arithmetic's type. They are stored as whole
// vectors, which may run past the end: loads of whole vectors soon after are then forwarded from the store buffer.
template <class T, class W>
void gather(const T* from, int64_t stride, int count, W* to) {
  constexpr int lanes = Vec<W>::lanes;
  int i = 0;
  if (stride == 0) {
    const Vec<W> one(double(widen_one<W>(*from)));
    for (; i < count; i += lanes) one.store(to + i);
    return;
  }
  if (stride == 1) {
    if constexpr (std::is_same_v<T, W>)
      for (; i + lanes <= count; i += lanes) Vec<W>::load(from + i).store(to + i);
    else if constexpr (sizeof(T) < 4 && sizeof(W) == 4)
      for (; i + lanes <= count; i += lanes) widen(from + i).store(to + i);
  }
  for (; i < count; ++i) to[i] = widen_one<W>(from[i * stride]);
}

template <class W>
void gather(Type type, const void* base, int64_t offset, int64_t stride, int count, W* to) {
  switch (type) {
    case Type::f64: return gather(static_cast<const double*>(base) + offset, stride, count, to);
    case Type::f32: return gather(static_cast<const float*>(base) + offset, stride, count, to);
    case Type::bf16: return gather(static_cast<const BFloat16*>(base) + offset, stride, count, to);
    case Type::f16: return gather(static_cast<const Half*>(base) + offset, stride, count, to);
    case Type::u8: return gather(static_cast<const uint8_t*>(base) + offset, stride, count, to);
  }
}

// The offset of the element with a flat index, and its index in each dimension.
AEVB_INLINE int64_t offset_of(const Input& input, int64_t flat, int64_t (&index)[kMaxDims]) {
  int64_t offset = 0;
  for (int d = input.dims - 1; d > 0; --d) {
    index[d] = flat % input.size[d];
    flat /= input.size[d];
    offset += index[d] * input.stride[d];
  }
  index[0] = flat;
  return offset + flat * input.stride[0];
}

// The elements of `input` with flat indices [begin, begin + count), contiguous: in place, or copied to `buffer`.
template <class W>
const W* stage(const Input& input, int64_t begin, int count, Type wide, Buffer<W>& buffer) {
  const int last = input.dims - 1;
  int64_t index[kMaxDims], offset = offset_of(input, begin, index);
  const int64_t stride = input.stride[last];
  if (input.type == wide && stride == 1 && count <= input.size[last] - index[last])
    return static_cast<const W*>(input.data) + offset;
  for (int done = 0; done < count;) {
    int64_t left = input.size[last] - index[last];
    int run = left < count - done ? int(left) : count - done;
    gather(input.type, input.data, offset, stride, run, buffer.data + done);
    done += run;
    offset += (run - 1) * stride;
    index[last] += run - 1;
    // Advance the multi-dimensional index, with carry.
    for (int d = last; d >= 0; --d) {
      offset += input.stride[d];
      if (++index[d] < input.size[d]) break;
      offset -= index[d] * input.stride[d];
      index[d] = 0;
    }
  }
  return buffer.data;
}

template <bool gradient, class T>
void scatter(const float* from, int count, T* to) {
  const auto put = [](F32 v, T* p) AEVB_INLINE_BODY { gradient ? narrow_gradient(v, p) : narrow(v, p); };
  int i = 0;
  for (; i + F32::lanes <= count; i += F32::lanes) put(F32::load(from + i), to + i);
  if (i < count) {
    T tail[F32::lanes];
    put(F32::load(from + i, count - i), tail);
    memcpy(to + i, tail, (count - i) * sizeof(T));
  }
}

// Writes numbers that were computed in a buffer to the output.
template <bool gradient>
AEVB_INLINE void unstage(const Output& output, int64_t begin, int count, const float* from) {
  if (output.type == Type::f32) memcpy(static_cast<float*>(output.data) + begin, from, count * sizeof(float));
  if (output.type == Type::bf16) scatter<gradient>(from, count, static_cast<BFloat16*>(output.data) + begin);
  if (output.type == Type::f16) scatter<gradient>(from, count, static_cast<Half*>(output.data) + begin);
}
template <bool gradient>
AEVB_INLINE void unstage(const Output& output, int64_t begin, int count, const double* from) {
  memcpy(static_cast<double*>(output.data) + begin, from, count * sizeof(double));
}

}  // namespace aevb::AEVB_ISA
