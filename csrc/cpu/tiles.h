// How rows are divided into pieces of work. The division, and with it every order of summation, depends on the shape
// alone, never on the number of threads.
#pragma once
#include "cpu/kernels.h"
#include "cpu/stage.h"

namespace aevb::AEVB_ISA {

inline Tiles tiles(int64_t rows, int64_t event, int64_t blocks) {
  // Groups of rows that are not contiguous are copied to buffers; longer rows are better read in place.
  const int64_t rows_per_tile = 0 < event && event < kChunk / 4 ? kChunk / event : 1;
  return {rows_per_tile, (rows + rows_per_tile - 1) / rows_per_tile * blocks};
}

// Elements that are computed together: `count` elements of each of `rows` rows, from element `first` of row `row` on.
// Only whole rows are grouped, so it is one flat run of `size` elements.
struct Chunk {
  int64_t row, first, flat, event, blocks;
  int rows, count, size;
};

// Calls body(chunk) for the chunks, of at most `limit` elements of a row, of tile `index`.
template <class Call, class Body>
AEVB_INLINE void for_each_chunk(const Call& call, const Tiles& tiles, int64_t index, Body body, int limit = kChunk) {
  const int64_t row = index / call.blocks * tiles.rows_per_tile, block = index % call.blocks;
  const int rows = int(call.rows - row < tiles.rows_per_tile ? call.rows - row : tiles.rows_per_tile);
  int64_t first = block * kBlock;
  const int64_t end = first + kBlock < call.event ? first + kBlock : call.event;
  for (; first < end; first += limit) {
    const int count = int(end - first < limit ? end - first : limit);
    body(Chunk{row, first, row * call.event + first, call.event, call.blocks, rows, count, rows * count});
  }
}

template <class T>
T sum(const T* from, int count) {
  Vec<T> total(0.0);
  int i = 0;
  for (; i + Vec<T>::lanes <= count; i += Vec<T>::lanes) total = total + Vec<T>::load(from + i);
  if (i < count) total = total + Vec<T>::load(from + i, count - i);
  return sum(total);
}

// Writes the sum of row `r` of a chunk to its block; sums of further chunks of the same block are added to it.
template <class T>
void add_block_sum(const Output& output, const Chunk& chunk, int r, T part) {
  T* to = static_cast<T*>(output.data) + (chunk.row + r) * chunk.blocks + chunk.first / kBlock;
  *to = chunk.first % kBlock ? *to + part : part;
}

template <class T>
void add_row_sums(const Output& output, const Chunk& chunk, const T* from) {
  for (int r = 0; r < chunk.rows; ++r) add_block_sum(output, chunk, r, sum(from + r * chunk.count, chunk.count));
}

// Where a chunk's results are computed: in the output if it has the arithmetic's type, else in a buffer.
template <class T>
T* target(const Output& output, const Chunk& chunk, Type wide, Buffer<T>& buffer) {
  const bool elements = output.data && !output.per_block && output.type == wide;
  void* const in_place = elements ? place_of(output, chunk.flat, chunk.size) : nullptr;
  return in_place ? static_cast<T*>(in_place) : buffer.data;
}

// Moves a chunk's results from their buffer to the output: their row sums, or each element, past the caches where whole
// cache lines are written.
template <bool gradient = false, class T>
void deliver(const Output& output, const Chunk& chunk, const Buffer<T>& from, bool beyond_caches) {
  if (!output.data) return;
  if (output.per_block) return add_row_sums(output, chunk, from.data);
  unstage<gradient>(output, chunk.flat, chunk.size, from.data, beyond_caches);
}

}  // namespace aevb::AEVB_ISA
