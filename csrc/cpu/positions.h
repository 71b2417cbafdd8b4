// How a call over positions, each of which has a vector of parameters, is divided and staged. A few positions are
// computed together, one in each lane of a register: their vectors are copied to a buffer with a row for each number.
#pragma once
#include "cpu/tiles.h"

namespace aevb::AEVB_ISA {

void categorical(const PositionCall& call, int64_t begin, int64_t end);
void discretized_logistic_mixture(const PositionCall& call, int64_t begin, int64_t end);

// A tile is a block of one row, or several whole rows that have as many positions at most.
inline Tiles position_tiles(const PositionCall& call) {
  constexpr int64_t numbers = 1 << 16;  // enough for a thread
  int64_t rows = 1;
  if (call.event > 0 && call.event <= kPositions / 2) {
    const int64_t most = kPositions / call.event, worth = numbers / (call.event * call.size) + 1;
    // Where neighbours in memory are positions, a cache line of them at least.
    const int64_t line = call.parameters.step == 1 ? 1 : 16 / call.event + 1;
    const int64_t wanted = worth > line ? worth : line;
    rows = wanted < most ? wanted : most;
  }
  return {rows, (call.rows + rows - 1) / rows * call.blocks};
}

// Positions with flat indices [first, first + count) of `rows` rows, at most kPositions: a block or whole rows.
struct PositionTile {
  int64_t row, first;
  int rows, count;
};

template <class Body>
void for_each_position_tile(const PositionCall& call, int64_t begin, int64_t end, const Body& body) {
  const int64_t rows_each = position_tiles(call).rows_per_tile;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = i / call.blocks * rows_each, start = i % call.blocks * call.block;
    const int rows = int(call.rows - row < rows_each ? call.rows - row : rows_each);
    const int64_t each = call.event - start < call.block ? call.event - start : call.block;
    body(PositionTile{row, row * call.event + start, rows, int(rows * each)});
  }
}

// The values of a tile's positions, or their sums, to where they belong.
template <class T>
void deliver(const PositionCall& call, const PositionTile& tile, const T* values) {
  if (!call.value.per_block) return unstage<false>(call.value, tile.first, tile.count, values, false);
  const int each = tile.count / tile.rows;
  T* const sums = static_cast<T*>(call.value.data) + tile.row * call.blocks + tile.first % call.event / call.block;
  for (int r = 0; r < tile.rows; ++r) sums[r] = sum(values + r * each, each);
}

// Numbers that can be written behind the last of a tile's, so that whole vectors are.
template <class T>
struct PositionNumbers {
  alignas(64) T data[kPositions + 64 / sizeof(T)];
};

// The cotangents of a tile's positions.
template <class T>
void stage_cotangents(const PositionCall& call, const PositionTile& tile, T* to) {
  const T scale = T(call.cotangent_scale);
  for (int p = 0; p < tile.count; ++p) to[p] = scale;
  if (!call.cotangent.data) return;
  Buffer<T> buffer;
  const T* const from = stage(call.cotangent, tile.first, tile.count, call.wide, buffer);
  for (int p = 0; p < tile.count; ++p) to[p] = from[p] * scale;
}

// Calls body(done, offset, step, count) for runs of positions: from the `done`-th on, `count` that are `step` elements
// apart.
template <class Body>
AEVB_INLINE void for_each_run(const Input& first, int64_t begin, int count, Body body) {
  const int last = first.dims - 1;
  const int64_t row_step = last > 0 ? first.stride[last - 1] : 0;
  for_each_piece(first, begin, count, [&](int done, int64_t offset, int rows, int cols) {
    for (int r = 0; r < rows; ++r) body(done + r * cols, offset + r * row_step, first.stride[last], cols);
  });
}

// Numbers of a position that are side by side in memory are moved so many at a time.
constexpr int kLine = 128;

// Numbers [number, number + size) of positions [begin, begin + count): number n of position p to to[n * width + p].
template <class W>
void load_panel(const Vectors& from, int64_t number, int size, int64_t begin, int count, W* to, int width) {
  with_type(from.first.type, from.first.data, [&](auto* data) AEVB_INLINE_BODY {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
    for_each_run(from.first, begin, count, [&](int done, int64_t offset, int64_t step, int run) {
      const T* const first = data + offset + number * from.step;
      if (from.step != 1 || size < 4 || run < 4) {
        for (int n = 0; n < size; ++n) {
          W* const row = to + int64_t(n) * width + done;
          if (step == 1)
            gather(first + n * from.step, 1, run, row);
          else
            for (int p = 0; p < run; ++p) row[p] = widen_one<W>(first[n * from.step + p * step]);
        }
      } else if constexpr (std::is_same_v<T, W>) {
        transpose(first, step, run, size, to + done, width);
      } else {
        alignas(64) W line[4][kLine + 16];
        for (int p = 0; p < run; p += 4)
          for (int n = 0; n < size; n += kLine) {
            const int top = p < run - 4 ? p : run - 4, some = size - n < kLine ? size - n : kLine;
            for (int i = 0; i < 4; ++i) gather(first + (top + i) * step + n, 1, some, line[i]);
            transpose(line[0], kLine + 16, 4, some, to + int64_t(n) * width + done + top, width);
          }
      }
    });
  });
}

// Numbers as they are stored: gradients, in place or narrowed.
template <class T, class W>
AEVB_INLINE void store_line(const W* from, int count, T* to) {
  if constexpr (std::is_same_v<T, W>)
    memcpy(to, from, count * sizeof(T));
  else
    scatter<true>(from, count, to);
}

// Calls body(p) with a pointer to where gradients are written.
template <class W, class Body>
AEVB_INLINE void with_gradient(const PositionCall& call, Body body) {
  if constexpr (sizeof(W) == 8)
    body(static_cast<double*>(call.gradient));
  else if (call.parameters.first.type == Type::f32)
    body(static_cast<float*>(call.gradient));
  else if (call.parameters.first.type == Type::bf16)
    body(static_cast<BFloat16*>(call.gradient));
  else
    body(static_cast<Half*>(call.gradient));
}

// The inverse of load_panel, for gradients.
template <class W>
void store_panel(const PositionCall& call, int64_t number, int size, int64_t begin, int count, const W* from,
                 int width) {
  const int64_t number_step = call.gradient_layout.step;
  with_gradient<W>(call, [&](auto* data) AEVB_INLINE_BODY {
    using T = std::remove_pointer_t<decltype(data)>;
    for_each_run(call.gradient_layout.first, begin, count, [&](int done, int64_t offset, int64_t step, int run) {
      T* const first = data + offset + number * number_step;
      if (step == 1) {
        for (int n = 0; n < size; ++n) store_line(from + int64_t(n) * width + done, run, first + n * number_step);
      } else if (number_step == 1 && size >= 4 && run >= 4) {
        if constexpr (std::is_same_v<T, W>) {
          transpose(from + done, width, size, run, first, step);
        } else {
          alignas(64) W line[4][kLine + 16];
          for (int p = 0; p < run; p += 4)
            for (int n = 0; n < size; n += kLine) {
              const int top = p < run - 4 ? p : run - 4, some = size - n < kLine ? size - n : kLine;
              transpose(from + int64_t(n) * width + done + top, width, some, 4, line[0], kLine + 16);
              for (int i = 0; i < 4; ++i) store_line(line[i], some, first + (top + i) * step + n);
            }
        }
      } else {
        T line[kPositions];
        for (int n = 0; n < size; ++n) {
          store_line(from + int64_t(n) * width + done, run, line);
          for (int p = 0; p < run; ++p) first[n * number_step + p * step] = line[p];
        }
      }
    });
  });
}

// The same of one position, whose numbers are contiguous.
template <class W>
void store_numbers(const PositionCall& call, int64_t number, int size, int64_t position, const W* from) {
  int64_t index[kMaxDims];
  const Vectors& layout = call.gradient_layout;
  const int64_t offset = offset_of(layout.first, position, index) + number * layout.step;
  with_gradient<W>(call, [&](auto* data) AEVB_INLINE_BODY {
    if (layout.step == 1) return store_line(from, size, data + offset);
    for (int n = 0; n < size; ++n) store_line(from + n, 1, data + offset + n * layout.step);
  });
}

// Memory for a panel of any size.
template <class T>
class Panel {
 public:
  explicit Panel(int64_t numbers) : memory_(__builtin_calloc((numbers + 16) * sizeof(T) + 64, 1)) {
    data = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory_) + 63) / 64 * 64);
  }
  Panel(const Panel&) = delete;
  ~Panel() { __builtin_free(memory_); }
  T* data;

 private:
  void* memory_;
};

}  // namespace aevb::AEVB_ISA
