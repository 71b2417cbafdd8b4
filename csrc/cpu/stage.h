// Copies between tensors in memory (any dtype, any strides) and buffers in the first-level cache: a formula only sees
// contiguous float or double. An operand that is contiguous in that type already is used in place.
#pragma once
#include <type_traits>

#include "call.h"
#include "cpu/vec.h"

namespace aevb::AEVB_ISA {

// Elements that are computed together: a dozen buffers of them fit the first-level cache. Where an operand lies in
// another order than the loop's, they are as many as a buffer has room for, so that runs of its elements are longer.
constexpr int kChunk = 512, kTile = 4096;

// Buffers have room for one more vector, so that the last, partial vector can be read as a whole one, and then as much
// that the beginnings of two are not in the same places of the first-level cache.
template <class T>
struct alignas(64) Buffer {
  T data[kTile + 16 + kChunk];
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
AEVB_INLINE F32 widen(const int16_t* p) {
  const U32x upper = extended((const uint16_t*)p) << 16;  // from which the sign is shifted down
  return {__builtin_convertvector((F32::mask)upper >> 16, F32::raw)};
}
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

AEVB_INLINE void shortened(U32x a, U32x b, uint16_t* p) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i both = _mm256_packus_epi32((__m256i)a, (__m256i)b);  // by halves of a register: a0 b0 a1 b1
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
#else
  shortened(a, p);
  shortened(b, p + F32::lanes);
#endif
}

// Rounded to nearest even, for what is not NaN.
AEVB_INLINE U32x rounded_half(U32x u) { return (u + ((u >> 16 & 1) + 0x7fff)) >> 16; }

// Round to nearest even; NaN stays NaN.
AEVB_INLINE void narrow(F32 a, BFloat16* p) {
  U32x u = (U32x)a.v;
  shortened(a.v == a.v ? rounded_half(u) : u >> 16 | 0x40, &p->bits);
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
  U32x rounded = rounded_half((U32x)between(-0x1.fep127, 0x1.fep127, a).v);
  // A NaN made by arithmetic is a NaN by its upper half already.
  shortened(abs(a) < F32(__builtin_inff()) ? rounded : (U32x)a.v >> 16, &p->bits);
}

// Two vectors, mostly of numbers that need none of these cases: numbers up to `largest`.
template <bool gradient>
AEVB_INLINE void narrow_two(F32 a, F32 b, BFloat16* p) {
  const int32_t largest = gradient ? 0x7f7f7fff : 0x7f800000;
  if (__builtin_expect(F32::any((abs(a).bits() > largest) | (abs(b).bits() > largest)), 0)) {
    gradient ? narrow_gradient(a, p) : narrow(a, p);
    gradient ? narrow_gradient(b, p + F32::lanes) : narrow(b, p + F32::lanes);
  } else {
    shortened(rounded_half((U32x)a.v), rounded_half((U32x)b.v), &p->bits);
  }
}
template <bool gradient>
AEVB_INLINE void narrow_two(F32 a, F32 b, Half* p) {
  const F32 largest(65504.0);
  if (gradient && __builtin_expect(F32::any((abs(a) > largest) | (abs(b) > largest)), 0)) {
    narrow_gradient(a, p);
    narrow_gradient(b, p + F32::lanes);
  } else {
    narrow(a, p);
    narrow(b, p + F32::lanes);
  }
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

// Calls body(p) with a pointer to the elements of a type, which are numbers.
template <class Body>
AEVB_INLINE void with_type(Type type, const void* data, Body body) {
  switch (type) {
    case Type::f64: return body(static_cast<const double*>(data));
    case Type::f32: return body(static_cast<const float*>(data));
    case Type::bf16: return body(static_cast<const BFloat16*>(data));
    case Type::f16: return body(static_cast<const Half*>(data));
    case Type::u8: return body(static_cast<const uint8_t*>(data));
    case Type::i16: return body(static_cast<const int16_t*>(data));
    case Type::i32: return body(static_cast<const int32_t*>(data));
    case Type::i64: return body(static_cast<const int64_t*>(data));
  }
}

template <class W>
void gather(Type type, const void* base, int64_t offset, int64_t stride, int count, W* to) {
  with_type(type, base, [=](auto* p) AEVB_INLINE_BODY { gather(p + offset, stride, count, to); });
}

// Four rows of four numbers.
template <class T>
struct Square {
  using Row = Raw<T, 4>;
  Row row[4];

  AEVB_INLINE static Row load(const T* p) {
    Row r;
    memcpy(&r, p, sizeof r);
    return r;
  }
  AEVB_INLINE void store(int i, T* p, bool streamed) const {
#if defined(__SSE2__)
    if (streamed) return _mm_stream_si128((__m128i*)p, (__m128i)row[i]);
#endif
    (void)streamed;
    memcpy(p, &row[i], sizeof row[i]);
  }
  AEVB_INLINE void transpose() {
#if defined(__SSE2__)
    if constexpr (sizeof(T) == 4) {
      __m128 a = (__m128)row[0], b = (__m128)row[1], c = (__m128)row[2], d = (__m128)row[3];
      _MM_TRANSPOSE4_PS(a, b, c, d);
      row[0] = (Row)a, row[1] = (Row)b, row[2] = (Row)c, row[3] = (Row)d;
      return;
    }
#endif
    Square old = *this;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) row[j][i] = old.row[i][j];
  }
};

// Whether so many elements at an address, and others at each further step, are whole cache lines.
template <class T>
bool are_lines(const T* p, int64_t count, int64_t step) {
  constexpr int line = 64 / sizeof(T);
  return uintptr_t(p) % 64 == 0 && count % line == 0 && step % line == 0;
}

// to[c * to_step + r] = from[r * from_step + c] for `rows` rows of `cols` numbers; past the caches, if that is wanted
// and whole lines are written.
template <class T>
void transpose(const T* from, int64_t from_step, int rows, int cols, T* to, int64_t to_step, bool streamed = false) {
  int r = 0, c = 0;
  streamed = streamed && are_lines(to, rows, to_step);
  if constexpr (sizeof(T) == 4) {
    Square<T> square = {};
    if (rows >= 4 && cols >= 4) {
      // The last square of a row or a column overlaps the one before. Memory beside a buffer is gone along.
      const auto square_at = [&](int r, int c) AEVB_INLINE_BODY {
        const int top = r < rows - 4 ? r : rows - 4, left = c < cols - 4 ? c : cols - 4;
        for (int i = 0; i < 4; ++i) square.row[i] = square.load(from + (top + i) * from_step + left);
        square.transpose();
        for (int i = 0; i < 4; ++i) square.store(i, to + (left + i) * to_step + top, streamed);
      };
      if (from_step > to_step) {
        for (; r < rows; r += 4)
          for (c = 0; c < cols; c += 4) square_at(r, c);
      } else {
        for (; c < cols; c += 4)
          for (r = 0; r < rows; r += 4) square_at(r, c);
      }
      return;
    }
    if (cols >= 4 && to_step == rows) {
      // Few long rows are interleaved: what is stored too much, the next store overwrites.
      for (; (cols - c - 3) * rows >= 4 && c + 4 <= cols; c += 4) {
        for (int i = 0; i < rows; ++i) square.row[i] = square.load(from + i * from_step + c);
        square.transpose();
        for (int i = 0; i < 4; ++i) memcpy(to + (c + i) * to_step, &square.row[i], sizeof square.row[i]);
      }
    } else if (rows >= 4 && from_step >= cols) {
      // Many short rows are taken apart: four numbers are loaded of each, as long as that many follow.
      for (; r + 4 <= rows && (rows - r - 4) * from_step + cols >= 4; r += 4) {
        for (int i = 0; i < 4; ++i) square.row[i] = square.load(from + (r + i) * from_step);
        square.transpose();
        for (int i = 0; i < cols; ++i) memcpy(to + i * to_step + r, &square.row[i], sizeof square.row[i]);
      }
    }
  }
  for (; c < cols; ++c)
    for (int left = r; left < rows; ++left) to[c * to_step + left] = from[left * from_step + c];
}

// Gathers `rows` rows of `cols` numbers, so many elements apart, to contiguous ones of the arithmetic's type. Stores
// may run past the end.
template <class T, class W>
void gather(const T* from, int64_t row_step, int64_t step, int rows, int cols, W* to) {
  if (row_step == 1 && step > 1 && rows > 1) {
    // The next elements of each line are wanted soon, and too many lines are read for the processor to notice.
    for (int c = 0; c < cols; ++c)
      for (int r = rows; r < 2 * rows; r += 64 / sizeof(T)) __builtin_prefetch(from + c * step + r);
    if constexpr (std::is_same_v<T, W>) {
      transpose(from, step, cols, rows, to, cols);
    } else {
      constexpr int lines = 4, length = 256;
      alignas(64) W line[lines][length + 16];
      for (int c = 0; c < cols; c += lines)
        for (int r = 0; r < rows; r += length) {
          const int width = cols - c < lines ? cols - c : lines, count = rows - r < length ? rows - r : length;
          for (int i = 0; i < width; ++i) gather(from + (c + i) * step + r, 1, count, line[i]);
          transpose(line[0], length + 16, width, count, to + int64_t(r) * cols + c, cols);
        }
    }
    return;
  }
  int r = 0;
  if constexpr (std::is_same_v<T, W> || (sizeof(T) < 4 && sizeof(W) == 4)) {
    // Short rows are copied by whole vectors, as long as that many elements follow.
    constexpr int lanes = Vec<W>::lanes;
    const auto vector = [](const T* p, W* q) AEVB_INLINE_BODY {
      if constexpr (std::is_same_v<T, W>)
        Vec<W>::load(p).store(q);
      else
        widen(p).store(q);
    };
    const int64_t by_vectors = step == 1 && row_step > 0 ? rows - 1 - (lanes + row_step - 1) / row_step : 0;
    const int64_t ahead = rows * row_step;  // where the next piece begins
    if (std::is_same_v<T, W> && cols == 4)
      for (; r < by_vectors; ++r, from += row_step, to += 4) {
        __builtin_prefetch(from + ahead);
        memcpy(to, from, 4 * sizeof(T));
      }
    else if (cols <= lanes)
      for (; r < by_vectors; ++r, from += row_step, to += cols) {
        __builtin_prefetch(from + ahead);
        vector(from, to);
      }
    else
      for (; r < by_vectors; ++r, from += row_step, to += cols)
        for (int c = 0; c < cols; c += lanes) {
          __builtin_prefetch(from + ahead + c);
          vector(from + c, to + c);
        }
  }
  for (; r < rows; ++r, from += row_step, to += cols) {
    if (row_step == 0 && r > 0)
      for (int c = 0; c < cols; ++c) to[c] = to[c - cols];
    else
      gather(from, step, cols, to);
  }
}

template <class W>
void gather(Type type, const void* base, int64_t offset, int64_t row_step, int64_t step, int rows, int cols, W* to) {
  with_type(type, base, [=](auto* p) AEVB_INLINE_BODY { gather(p + offset, row_step, step, rows, cols, to); });
}

// The offset of the element with a flat index, and its index in each dimension.
AEVB_INLINE int64_t offset_of(const Input& layout, int64_t flat, int64_t (&index)[kMaxDims]) {
  int64_t offset = 0;
  for (int d = layout.dims - 1; d > 0; --d) {
    index[d] = flat % layout.size[d];
    flat /= layout.size[d];
    offset += index[d] * layout.stride[d];
  }
  index[0] = flat;
  return offset + flat * layout.stride[0];
}

// Calls body(done, offset, rows, cols) for pieces of the elements with flat indices [begin, begin + count): element
// done + r * cols + c is c of the innermost dimension and r of the next one further.
template <class Body>
AEVB_INLINE void for_each_piece(const Input& layout, int64_t begin, int count, Body body) {
  const int last = layout.dims - 1;
  int64_t index[kMaxDims], offset = offset_of(layout, begin, index);
  for (int done = 0;;) {
    const int64_t cols = layout.size[last], left = cols - index[last];
    if (last > 0 && left == cols && count - done >= 2 * cols) {
      const int64_t whole = (count - done) / cols, rows = layout.size[last - 1] - index[last - 1];
      const int some = int(whole < rows ? whole : rows);
      body(done, offset, some, int(cols));
      done += some * int(cols);
      index[last - 1] += some;
    } else {
      const int some = int(left < count - done ? left : count - done);
      body(done, offset, 1, some);
      done += some;
      if (done < count && last > 0) index[last] = 0, ++index[last - 1];
    }
    if (done >= count) return;
    for (int d = last - 1; d > 0 && index[d] == layout.size[d]; --d) index[d] = 0, ++index[d - 1];
    offset = 0;
    for (int d = 0; d <= last; ++d) offset += index[d] * layout.stride[d];
  }
}

// The elements of `input` with flat indices [begin, begin + count), contiguous: in place, or copied to `buffer`.
template <class W>
const W* stage(const Input& input, int64_t begin, int count, Type wide, Buffer<W>& buffer) {
  const int last = input.dims - 1;
  if (input.type == wide && input.stride[last] == 1 && count <= input.size[last]) {
    int64_t index[kMaxDims];
    const int64_t offset = offset_of(input, begin, index);
    if (count <= input.size[last] - index[last]) return static_cast<const W*>(input.data) + offset;
  }
  const int64_t row_step = last > 0 ? input.stride[last - 1] : 0;
  for_each_piece(input, begin, count, [&](int done, int64_t offset, int rows, int cols) {
    if (rows == 1)
      gather(input.type, input.data, offset, input.stride[last], cols, buffer.data + done);
    else
      gather(input.type, input.data, offset, row_step, input.stride[last], rows, cols, buffer.data + done);
  });
  return buffer.data;
}

// Where the elements with flat indices [begin, begin + count) are in the output, if they are contiguous there.
inline void* place_of(const Output& output, int64_t begin, int count) {
  int64_t offset = begin;
  if (const Input* const layout = output.layout) {
    const int last = layout->dims - 1;
    int64_t index[kMaxDims];
    if (layout->stride[last] != 1 || count > layout->size[last]) return nullptr;
    offset = offset_of(*layout, begin, index);
    if (count > layout->size[last] - index[last]) return nullptr;
  }
  return static_cast<char*>(output.data) + offset * size_of(output.type);
}

// How many elements are computed together if an operand or a result is not contiguous along the innermost dimension: so
// many that its runs along another one are long. 0: it is.
inline int tile_for(const Input& layout) {
  const int last = layout.dims - 1;
  if (last < 0 || layout.size[last] == 1 || layout.stride[last] <= 1) return 0;
  const int64_t runs = 32 * layout.size[last];
  return int(runs < kTile / 4 ? kTile / 4 : runs < kTile ? runs : kTile);
}

template <bool gradient, class T>
void scatter(const float* from, int count, T* to) {
  constexpr int lanes = F32::lanes;
  int i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes)
    narrow_two<gradient>(F32::load(from + i), F32::load(from + i + lanes), to + i);
  if (i < count) {
    alignas(64) float rest[2 * lanes] = {};
    T tail[2 * lanes];
    memcpy(rest, from + i, (count - i) * sizeof(float));
    narrow_two<gradient>(F32::load(rest), F32::load(rest + lanes), tail);
    memcpy(to + i, tail, (count - i) * sizeof(T));
  }
}

// Moves contiguous rows of `count` elements to others, a step apart; the compiler knows the number of a short row's.
template <int count, class T>
void move_rows(const T* from, int rows, T* to, int64_t row_step) {
  for (int r = 0; r < rows; ++r) memcpy(to + r * row_step, from + r * count, count * sizeof(T));
}

// Moves `rows` rows of `cols` numbers to elements so far apart, past the caches as `transpose` does.
template <class T>
void scatter(const T* from, int rows, int cols, T* to, int64_t row_step, int64_t step, bool streamed) {
  if (row_step == 1 && rows > 1) return transpose(from, cols, rows, cols, to, step, streamed);
  if (step == 1) {
    switch (cols) {
      case 1: return move_rows<1>(from, rows, to, row_step);
      case 2: return move_rows<2>(from, rows, to, row_step);
      case 3: return move_rows<3>(from, rows, to, row_step);
      case 4: return move_rows<4>(from, rows, to, row_step);
      case 8: return move_rows<8>(from, rows, to, row_step);
    }
    streamed = streamed && are_lines(to, cols, row_step);
    constexpr int vector = kVectorBytes / sizeof(T);
    for (int r = 0; r < rows; ++r, from += cols, to += row_step) {
      if (streamed)
        for (int c = 0; c < cols; c += vector) F32::load((const float*)(from + c)).stream((float*)(to + c));
      else
        memcpy(to, from, cols * sizeof(T));
    }
    return;
  }
  for (int r = 0; r < rows; ++r, from += cols, to += row_step)
    for (int c = 0; c < cols; ++c) to[c * step] = from[c];
}

// Moves `count` contiguous elements of the output's type to where they lie in the output.
template <class T>
void put(const Output& output, int64_t begin, int count, const T* from, bool streamed) {
  T* const to = static_cast<T*>(output.data);
  if (!output.layout) return void(memcpy(to + begin, from, count * sizeof(T)));
  const Input& layout = *output.layout;
  const int last = layout.dims - 1;
  const int64_t step = layout.stride[last], row_step = last > 0 ? layout.stride[last - 1] : 0;
  for_each_piece(layout, begin, count, [&](int done, int64_t offset, int rows, int cols) {
    scatter(from + done, rows, cols, to + offset, row_step, step, streamed);
  });
}

template <bool gradient, class T>
AEVB_INLINE void put_narrowed(const Output& output, int64_t begin, int count, const float* from, bool streamed) {
  if (T* const place = static_cast<T*>(place_of(output, begin, count))) return scatter<gradient>(from, count, place);
  T narrowed[kTile];
  scatter<gradient>(from, count, narrowed);
  put(output, begin, count, narrowed, streamed);
}

// Writes numbers that were computed in a buffer to the output.
template <bool gradient>
AEVB_INLINE void unstage(const Output& output, int64_t begin, int count, const float* from, bool streamed) {
  if (output.type == Type::f32) put(output, begin, count, from, streamed);
  if (output.type == Type::bf16) put_narrowed<gradient, BFloat16>(output, begin, count, from, streamed);
  if (output.type == Type::f16) put_narrowed<gradient, Half>(output, begin, count, from, streamed);
}
template <bool gradient>
AEVB_INLINE void unstage(const Output& output, int64_t begin, int count, const double* from, bool streamed) {
  put(output, begin, count, from, streamed);
}

}  // namespace aevb::AEVB_ISA
