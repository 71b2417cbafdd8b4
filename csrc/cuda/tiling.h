// How a problem is divided. A tile is a run of elements of one row: the whole row or one block of it. A group of
// threads works on one tile at a time: one thread on a row of a few elements, a warp on a row of hundreds, a thread
// block on longer ones. How a row is summed therefore depends on its length, never on the number of rows.
#pragma once
#include <algorithm>

#include "call.h"

namespace aevb::device {

constexpr int kWarp = 32;
constexpr int kBlockThreads = 256;  // a group that is a whole thread block
constexpr int kWarpThreads = 128;   // a thread block of smaller groups
constexpr int64_t kMaxGrid = 65536;

// Division by a number that is known before the kernel starts, by its reciprocal; the quotient is at most one too
// small.
struct Divisor {
  uint64_t value = 1, reciprocal = UINT64_MAX;

  Divisor() = default;
  explicit Divisor(int64_t by) : value(by), reciprocal(UINT64_MAX / by) {}
};

struct Tiling {
  int64_t rows, event, block, tiles;
  Divisor blocks;  // of a row
  int group, group_log2;

  unsigned threads() const { return group > kWarp ? kBlockThreads : kWarpThreads; }
  unsigned grid() const {
    const int64_t groups = threads() / group;
    return static_cast<unsigned>(std::min((tiles + groups - 1) / groups, kMaxGrid));
  }
};

// `block` elements are a tile; a thread takes `unit` adjacent ones at a time; more than `block_units` units are worth a
// thread block.
inline Tiling tile(int64_t rows, int64_t event, int64_t block, int unit, int block_units) {
  const int64_t blocks = (event + block - 1) / block;
  Tiling t = {rows, event, block, rows * blocks, Divisor(blocks), 1, 0};
  const int64_t units = (std::min(event, block) + unit - 1) / unit;
  if (units > block_units) {
    t.group = kBlockThreads;
  } else {
    while (t.group < kWarp && t.group < units) t.group *= 2;
  }
  while (1 << t.group_log2 < t.group) ++t.group_log2;
  return t;
}

// Dimensions, innermost first.
struct Axes {
  int dims = 1;
  Divisor size[kMaxDims];
  int64_t stride[kMaxDims] = {};
};

// An operand: the offset of row r, and the offset of element e from the start of its row.
struct Operand {
  const void* data = nullptr;
  Type type = Type::f32;
  Axes row, event;

  Operand() = default;
  // Splits the dimensions of `in` in two groups, so that the inner ones have `elements` elements.
  Operand(const Input& in, int64_t elements) : data(in.data), type(in.type) {
    row.dims = event.dims = 0;
    for (int d = in.dims - 1; d >= 0; --d) {
      const int64_t inside = std::min(in.size[d], elements);
      if (inside > 1) push(event, inside, in.stride[d]);
      if (in.size[d] > inside) push(row, in.size[d] / inside, in.stride[d] * inside);
      elements /= inside;
    }
    if (!row.dims) push(row, 1, 0);
    if (!event.dims) push(event, 1, 0);
  }

 private:
  static void push(Axes& axes, int64_t size, int64_t stride) {
    axes.size[axes.dims] = Divisor(size);
    axes.stride[axes.dims++] = stride;
  }
};

// If nothing is summed, rows have no meaning: if every operand is contiguous, the problem may be one row.
inline bool is_one_run(const Input& in) { return !in.data || in.dims == 1; }

}  // namespace aevb::device
