// The kernels of the CPU: each computes the tiles [begin, end) of a call. They are compiled once for each instruction
// set; instruction_sets.cpp chooses one.
#pragma once
#include "call.h"

namespace aevb {

// A tile is a block of one long row, or as many whole short rows as fill a chunk; or a block of each of the rows that
// are summed.
struct Tiles {
  int64_t rows_per_tile, count;
};

struct CpuKernels {
  const char* name;
  Tiles (*tiles)(int64_t rows, int64_t event, int64_t blocks, int64_t rows_per_sum);
  void (*rows)(const RowCall&, int64_t begin, int64_t end);  // whichever results the call has a place for
  // Of a call over positions, and what such a call has a place for: values, gradients or both.
  Tiles (*position_tiles)(const PositionCall&);
  void (*categorical)(const PositionCall&, int64_t begin, int64_t end);
  void (*discretized_logistic_mixture)(const PositionCall&, int64_t begin, int64_t end);
  void (*sample_forward)(const SampleCall&, int64_t begin, int64_t end);
  void (*sample_backward)(const SampleCall&, int64_t begin, int64_t end);
  void (*binarize)(const BinarizeCall&, int64_t begin, int64_t end);
  void (*unpack_bits)(const UnpackCall&, int64_t begin, int64_t end);   // packed bytes, in place of tiles
  void (*activate)(const ActivationCall&, int64_t begin, int64_t end);  // rows
  void (*activate_backward)(const ActivationBackwardCall&, int64_t begin, int64_t end);  // features
  void (*scale_bytes)(const ScaleCall&, int64_t begin, int64_t end);                     // bytes
  void (*mixture_forward)(const MixtureCall&, int64_t begin, int64_t end);               // tiles of rows
  void (*mixture_backward)(const MixtureCall&, int64_t begin, int64_t end);              // parts
};

#define AEVB_DECLARE_KERNELS(isa)  \
  namespace isa {                  \
  extern const CpuKernels kernels; \
  }
AEVB_DECLARE_KERNELS(baseline)
AEVB_DECLARE_KERNELS(avx2)
AEVB_DECLARE_KERNELS(avx512)
#undef AEVB_DECLARE_KERNELS

}  // namespace aevb
