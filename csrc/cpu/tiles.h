// How rows are divided into pieces of work. The division, and with it every order of summation, depends on the shape
// alone, never on the number of threads.
#pragma once
#include "cpu/kernels.h"
#include "cpu/stage.h"

namespace aevb::AEVB_ISA {

// How many rows are computed together. Groups of rows that are not contiguous are copied to buffers; longer rows are
// better read in place.
inline int64_t rows_together(int64_t event) { return 0 < event && event < kChunk / 4 ? kChunk / event : 1; }

inline Tiles tiles(int64_t rows, int64_t event, int64_t blocks, int64_t rows_per_sum) {
  const int64_t rows_per_tile = rows_per_sum ? rows_per_sum : rows_together(event);
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
  const int64_t begin = index / call.blocks * tiles.rows_per_tile, block = index % call.blocks;
  const int64_t end = call.rows - begin < tiles.rows_per_tile ? call.rows : begin + tiles.rows_per_tile;
  const int64_t from = block * kBlock, to = from + kBlock < call.event ? from + kBlock : call.event;
  const int64_t together = rows_together(call.event);
  for (int64_t row = begin; row < end; row += together) {
    const int rows = int(end - row < together ? end - row : together);
    for (int64_t first = from; first < to; first += limit) {
      const int count = int(to - first < limit ? to - first : limit);
      body(Chunk{row, first, row * call.event + first, call.event, call.blocks, rows, count, rows * count});
    }
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

// Where the sum of row `r` of a chunk is written; sums of further chunks of the same block are added to it.
template <class T>
T* block_sum(const Output& output, const Chunk& chunk, int r) {
  return static_cast<T*>(output.data) + (chunk.row + r) * chunk.blocks + chunk.first / kBlock;
}

// Writes a part of a sum, or adds it to what is there.
template <class T>
void add_to(T* to, bool again, T part) {
  *to = again ? *to + part : part;
}

template <class T>
void add_row_sums(const Output& output, const Chunk& chunk, const T* from) {
  for (int r = 0; r < chunk.rows; ++r)
    add_to(block_sum<T>(output, chunk, r), chunk.first % kBlock, sum(from + r * chunk.count, chunk.count));
}

template <class T>
void add_all(T* to, const T* from, int count) {
  constexpr int lanes = Vec<T>::lanes;
  int i = 0;
  for (; i + lanes <= count; i += lanes) (Vec<T>::load(to + i) + Vec<T>::load(from + i)).store(to + i);
  for (; i < count; ++i) to[i] += from[i];
}

// Adds a chunk's rows to the sum of its tile's. A half of them is added to the other first, and so on: a sum of one row
// after the other would lose a digit.
template <class T>
void add_rows(const Output& output, const Chunk& chunk, T* from) {
  for (int rows = chunk.rows; rows > 1; rows -= rows / 2)
    add_all(from, from + (rows - rows / 2) * chunk.count, rows / 2 * chunk.count);
  T* const to = static_cast<T*>(output.data) + chunk.row / output.rows_per_sum * chunk.event + chunk.first;
  if (chunk.row % output.rows_per_sum)
    add_all(to, from, chunk.count);
  else
    memcpy(to, from, chunk.count * sizeof(T));
}

// Contiguous rows of the arithmetic's type, `step` elements apart.
template <class T>
struct Rows {
  T* first;
  int64_t step;
};

// Whether a chunk's rows are looped over one after the other: a row has to be a vector at least.
template <class T>
bool goes_by_rows(const Chunk& chunk) {
  return chunk.rows == 1 || chunk.count >= Vec<T>::lanes;
}

// Where a chunk's elements are, if each row is contiguous (`found`) or one number, and the rows are as far apart and
// can be looped over.
struct Place {
  bool found, numbers;
  int64_t offset, step;
};

template <class T>
Place place_of(const Input& layout, const Chunk& chunk) {
  const int last = layout.dims - 1;
  int64_t index[kMaxDims];
  const int64_t offset = offset_of(layout, chunk.flat, index), stride = layout.stride[last];
  if (chunk.size <= layout.size[last] - index[last]) return {stride == 1, stride == 0, offset, stride * chunk.count};
  const bool rows = goes_by_rows<T>(chunk) && layout.size[last] == chunk.count && last > 0 &&
                    chunk.rows <= layout.size[last - 1] - index[last - 1];
  return {rows && stride == 1, rows && stride == 0, offset, rows ? layout.stride[last - 1] : 0};
}

// Where a chunk's results are computed: in the output if it has the arithmetic's type, else in a buffer.
template <class T>
Rows<T> target(const Output& output, const Chunk& chunk, Type wide, Buffer<T>& buffer) {
  if (output.data && !output.per_block && !output.rows_per_sum && output.type == wide) {
    T* const data = static_cast<T*>(output.data);
    if (!output.layout) return {data + chunk.flat, chunk.count};
    if (const Place place = place_of<T>(*output.layout, chunk); place.found) return {data + place.offset, place.step};
  }
  return {buffer.data, chunk.count};
}

// The same for a loop over the elements of all rows.
template <class T>
T* flat_target(const Output& output, const Chunk& chunk, Type wide, Buffer<T>& buffer) {
  const Rows<T> rows = target(output, chunk, wide, buffer);
  return rows.step == chunk.count ? rows.first : buffer.data;
}

// Moves a chunk's results from their buffer to the output: their row sums, their sums over rows, or each element, past
// the caches where whole cache lines are written.
template <bool gradient = false, class T>
void deliver(const Output& output, const Chunk& chunk, Buffer<T>& from, bool beyond_caches) {
  if (!output.data) return;
  if (output.per_block) return add_row_sums(output, chunk, from.data);
  if (output.rows_per_sum) return add_rows(output, chunk, from.data);
  unstage<gradient>(output, chunk.flat, chunk.size, from.data, beyond_caches);
}

}  // namespace aevb::AEVB_ISA
