// How a problem is divided. A tile is a run of elements of one row: the whole row or one block of it. A group of
// threads works on one tile at a time: a few threads on a row of a few elements, a warp on a row of hundreds, a thread
// block on longer ones. How a row is summed therefore depends on its length, never on the number of rows.
#pragma once
#include <algorithm>

#include "call.h"

namespace aevb::device {

constexpr int kWarp = 32;
constexpr int kBlockThreads = 256;  // a group that is a whole thread block
constexpr int kWarpThreads = 128;   // a thread block of smaller groups
constexpr int64_t kMaxGrid = 65536;
constexpr int kWide = 16;  // bytes that one thread loads or stores at a time, at most
// Units that a thread of a warp takes at least, where a tile has them: to set up a tile takes as long as some of them.
constexpr int kUnitsEach = 4;

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
// thread block. `stores`: there are results for each element. `threads_each` threads share the work of a unit.
inline Tiling tile(int64_t rows, int64_t event, int64_t block, int unit, int block_units, bool stores,
                   int threads_each = 1) {
  const int64_t blocks = (event + block - 1) / block;
  Tiling t = {rows, event, block, rows * blocks, Divisor(blocks), 1, 0};
  const int64_t units = (std::min(event, block) + unit - 1) / unit;
  if (units > block_units) {
    t.group = kBlockThreads;
  } else {
    // Two threads at least where they store: what they do together is a whole sector of memory.
    const int64_t wanted = std::max(units / kUnitsEach, std::min<int64_t>(units, stores ? 2 : 1)) * threads_each;
    while (t.group < kWarp && 2 * t.group <= wanted) t.group *= 2;
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

// How the elements of a row lie in memory.
enum class Along : int {
  one,     // a single number
  run,     // each beside the one before
  steps,   // equal steps apart
  several  // by more than one dimension
};

// An operand: the offset of row r, and the offset of element e from the start of its row.
struct Operand {
  const void* data = nullptr;
  Type type = Type::f32;
  Along along = Along::one;
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
    const int64_t step = event.stride[0];
    along = event.dims > 1 ? Along::several : step == 0 ? Along::one : step == 1 ? Along::run : Along::steps;
  }

 private:
  static void push(Axes& axes, int64_t size, int64_t stride) {
    axes.size[axes.dims] = Divisor(size);
    axes.stride[axes.dims++] = stride;
  }
};

// Whether 32 bits hold a number.
constexpr bool is_narrow(int64_t number) { return number <= INT32_MAX; }

// Where a result goes: see Output of call.h.
struct Target {
  void* data = nullptr;
  Type type = Type::f32;
  bool per_block = false;
  int64_t row_gap = 0;  // elements between the end of a row and the next

  Target() = default;
  Target(const Output& out, int64_t event)
      : data(out.data),
        type(out.type),
        per_block(out.per_block),
        row_gap(out.layout && out.layout->dims == 2 ? out.layout->stride[0] - event : 0) {}
};

// The elements between two places of memory, `element`-sized, at which packs of V elements are aligned.
constexpr int aligned_every(int V, int element) { return (V * element < kWide ? V * element : kWide) / element; }

// Whether every tile is packs of V elements, all of them aligned, and 32 bits hold all that finds one. The distance
// from one row to the next has to keep them so. A tile is a whole row, or there is a single row.
class Alignment {
 public:
  Alignment(const Tiling& t, int V)
      : tiling_(t),
        V_(V),
        holds_(is_narrow(t.tiles) && is_narrow(t.event) && (t.rows == 1 || t.tiles == t.rows) && t.event % V == 0) {}

  void include(const Operand& in) {
    if (!in.data) return;
    holds_ = holds_ && in.row.dims == 1 && is_narrow(in.row.stride[0]);
    if (in.along == Along::run) include(in.data, size_of(in.type), in.row.stride[0]);
    if (in.along != Along::run && in.along != Along::one) holds_ = false;
  }
  void include(const Target& out) {
    if (!out.data || out.per_block) return;
    holds_ = holds_ && is_narrow(out.row_gap);
    include(out.data, size_of(out.type), tiling_.event + out.row_gap);
  }
  bool holds() const { return holds_; }

 private:
  void include(const void* data, int element, int64_t to_next_row) {
    const int period = aligned_every(V_, element);
    holds_ = holds_ && reinterpret_cast<uintptr_t>(data) % (period * element) == 0 &&
             (tiling_.rows == 1 || to_next_row % period == 0);
  }

  const Tiling& tiling_;
  int V_;
  bool holds_;
};

// If nothing is summed, rows have no meaning: if every operand is contiguous, the problem may be one row.
inline bool is_one_run(const Input& in) { return !in.data || in.dims == 1; }

}  // namespace aevb::device
