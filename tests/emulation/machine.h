// Runs kernels: blocks one after another, and the threads of a block in turns, each on a stack of its own, so that it
// can wait at a barrier or a shuffle for the others.
//
// A fault is an exception that names what happened, the kernel, the block and the thread:
// - lanes of a warp that do not meet at one shuffle, and a barrier that not all threads of the block reach;
// - an access that is not aligned to its size, or lies in no buffer of the launch (buffers.h says which these are);
// - a result that is read, written twice, or not written; an operand that is written;
// - shared memory that two threads use, one of them to write, with no barrier between, or that another block has
//   written before, and not this one.
// What a device keeps from one launch to the next is no shared memory: all may read and write it.
//
// The accesses are seen because kernels are compiled with -fsanitize=thread, which puts a call before each; machine.cpp
// has these calls, and no sanitizer's library is linked. Compiled without it a kernel runs unwatched, or watched by
// AddressSanitizer.
//
// Threads take turns in the order that the environment variable AEVB_EMULATION_ORDER names: forward (the default),
// reverse, shuffled, or ahead (in each block another warp runs first, as far as it comes). Blocks follow the same
// order. AEVB_EMULATION_BLOCKS is how many blocks a launch gets at most, so that kernels go round their loops over the
// grid.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

#define EMULATION_UNWATCHED __attribute__((no_sanitize("thread")))

namespace emulation {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where the thread that runs is.
struct Place {
  dim3 thread = {0, 0, 0}, block = {0, 0, 0}, threads, blocks;
};
extern Place place;

// What each thread of a launch does.
struct Body {
  virtual void operator()() const = 0;
  virtual std::string name() const = 0;

 protected:
  ~Body() = default;
};

void launch(const Body& body, dim3 blocks, dim3 threads);

// Of a function with this address, or, where the program does not know it, of one with this type of parameter.
std::string name_of(const void* function, const char* parameter);

void barrier();

struct Shuffle {
  unsigned mask;
  int distance;
  size_t bytes;
  uint64_t value;
};
uint64_t shuffle(const Shuffle& own);

// For accesses that are one on a GPU, and several to the compiler here.
void check_alignment(const void* at, size_t size);

// The numbers (x) of the blocks that are run; none: all. For problems that are too large for a CPU.
extern std::vector<unsigned> only;

// What has been run since the start.
struct Counts {
  uint64_t launches, blocks, shuffles, barriers, accesses;
};
extern Counts counts;

// A buffer of a launch: rows of `row` bytes, with `gap` bytes between one and the next that are not its own.
struct Buffer {
  std::string name;
  const void* data;
  uint64_t row, gap, rows;
  bool is_result;
  bool may_be_left = false;  // a result that need not be written
};

// The buffers of what is launched while this lives. On `finish` every byte of the results has been written but for
// those that may be left, or it is a fault.
class Watch {
 public:
  explicit Watch(std::vector<Buffer> buffers);
  ~Watch();
  Watch(const Watch&) = delete;
  void finish() const;
};

}  // namespace emulation
