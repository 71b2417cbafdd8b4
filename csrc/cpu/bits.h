// Binary data: drawing bits from their probabilities, and unpacking bits from bytes.
#pragma once
#include "cpu/sample.h"

namespace aevb::AEVB_ISA {

template <class T>
void draw_bits(const BinarizeCall& call, int64_t begin, int64_t end) {
  using N = Vec<T>;
  const double scale = call.x_scale * 0x1p32;
  Buffer<T> staged;
  alignas(64) uint32_t room[Noise::room(kTile)];
  for_each_drawn(call, begin, end, [&](const Chunk& chunk, const Noise& noise, int64_t numbered) AEVB_INLINE_BODY {
    const T* const x = stage(call.x, chunk.flat, chunk.size, call.wide, staged);
    const uint32_t* const before = drawn_before(call, chunk, noise, numbered, room);
    const uint32_t* const words = before ? before : noise.drawn(numbered, chunk.size, room);
    uint8_t* const to = call.bits + chunk.flat;
    int i = 0;
    if constexpr (sizeof(T) == 4) {
      constexpr int lanes = N::lanes;
      const auto word = [=](int i) AEVB_INLINE_BODY {
        U32x w;
        memcpy(&w, words + i, sizeof w);
        return w;
      };
      for (; i + lanes <= chunk.size; i += lanes) store_below(word(i), N::load(x + i) * N(scale), to + i);
      if (i < chunk.size) {
        uint8_t rest[lanes];
        store_below(word(i), N::load(x + i, chunk.size - i) * N(scale), rest);
        memcpy(to + i, rest, chunk.size - i);
      }
    } else {
      for (; i < chunk.size; ++i) to[i] = words[i] < x[i] * scale;
    }
  });
}

// Unpacks the bytes [begin, end), counted over all rows.
inline void unpack_bits(const UnpackCall& call, int64_t begin, int64_t end) {
  while (begin < end) {
    const int64_t row = begin / call.width, first = begin % call.width;
    const int64_t last = call.width - first < end - begin ? call.width : first + (end - begin);
    const int64_t whole = call.count / 8 < last ? call.count / 8 : last;
    const uint8_t* const from = call.packed + row * call.width;
    uint8_t* const to = call.bits + row * call.count;
    // Eight copies of a byte, each shifted by one more bit: the highest bits of the copies are the byte's eight bits.
    const auto spread = [](uint64_t byte)
                            AEVB_INLINE_BODY { return (byte * 0x8040201008040201u & 0x8080808080808080u) >> 7; };
    for (int64_t i = first; i < whole; ++i) {
      const uint64_t bits = spread(from[i]);
      memcpy(to + 8 * i, &bits, sizeof bits);
    }
    if (whole < last) {
      const uint64_t bits = spread(from[whole]);
      memcpy(to + 8 * whole, &bits, call.count - 8 * whole);
    }
    begin += last - first;
  }
}

}  // namespace aevb::AEVB_ISA
