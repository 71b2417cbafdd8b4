// How rows are cut into pieces of work. The cut depends on the shape alone, never on the number of threads, and so does
// every order of summation.
#pragma once
#include "cpu/kernels.h"
#include "cpu/stage.h"

namespace aevb::AEVB_ISA {

inline Tiles tiles(int64_t rows, int64_t event, int64_t blocks) {
  const int64_t rows_per_tile = event > 0 && event < kChunk ? kChunk / event : 1;
  return {rows_per_tile, (rows + rows_per_tile - 1) / rows_per_tile * blocks};
}

// Calls body(row, rows, first, count) for the chunks of tile `index`: `count` elements of each of `rows` rows, from
// element `first` on, rows * count <= kChunk. Only whole rows come in groups, so a chunk is one flat run.
template <class Call, class Body>
AEVB_INLINE void for_each_chunk(const Call& call, const Tiles& tiles, int64_t index, Body body) {
  int64_t row = index / call.blocks * tiles.rows_per_tile, block = index % call.blocks;
  int64_t rows = call.rows - row < tiles.rows_per_tile ? call.rows - row : tiles.rows_per_tile;
  int64_t first = block * kBlock, end = first + kBlock < call.event ? first + kBlock : call.event;
  for (; first < end; first += kChunk) body(row, int(rows), first, int(end - first < kChunk ? end - first : kChunk));
}

template <class T>
T sum(const T* from, int count) {
  Vec<T> total(0.0);
  int i = 0;
  for (; i + Vec<T>::lanes <= count; i += Vec<T>::lanes) total = total + Vec<T>::load(from + i);
  if (i < count) total = total + Vec<T>::load(from + i, count - i);
  return sum(total);
}

// The sums of a chunk's rows go to their blocks' places; further chunks of the same block are added to the first.
template <class T>
void add_row_sums(const Output& output, int64_t blocks, int64_t row, int rows, int64_t first, int count,
                  const T* from) {
  T* to = static_cast<T*>(output.data) + row * blocks + first / kBlock;
  for (int r = 0; r < rows; ++r, to += blocks) {
    T part = sum(from + r * count, count);
    *to = first % kBlock ? *to + part : part;
  }
}

}  // namespace aevb::AEVB_ISA
