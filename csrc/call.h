// The calls from the operators (ops/, which know tensors) to the kernels (cpu/ and cuda/, which know loops): plain
// data.
//
// A problem has `rows` rows (one data point, one sample) of `event` elements. Element e of row r has the flat index
// r * event + e. Each operand has its own mapping from flat indices to addresses. Flat indices go through the operands'
// dimensions in an order that the caller chooses, mostly that of the memory (ops/common/layout.h).
#pragma once
#include <cstdint>

#include "formulas/kinds.h"

namespace aevb {

enum class Type : int { f64, f32, bf16, f16, u8, i16, i32, i64 };
constexpr int size_of(Type type) {
  switch (type) {
    case Type::f64:
    case Type::i64: return 8;
    case Type::f32:
    case Type::i32: return 4;
    case Type::u8: return 1;
    default: return 2;
  }
}

// Longer rows are summed in blocks of this many elements, so that many threads can share one long row, and so that the
// order of summation never depends on the number of threads.
constexpr int64_t kBlock = 8192;
constexpr int kMaxDims = 6;

// A tensor read in the order of flat indices: dimensions are merged if possible; broadcast dimensions have stride 0.
struct Input {
  const void* data = nullptr;
  Type type = Type::f32;
  int dims = 0;
  int64_t size[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};
};

// A result: one number for each element, or one for each block of each row (their sum). It is contiguous, except that
// elements may lie as those of an Input; on a device, as rows with gaps between them. On the CPU a gradient may be, for
// each element of a row, a sum over each so many rows, which is contiguous as well.
struct Output {
  void* data = nullptr;
  Type type = Type::f32;
  bool per_block = false;
  const Input* layout = nullptr;  // its dimensions; null: contiguous
  int64_t rows_per_sum = 0;       // 0: no sums over rows
};

struct Params {
  double x_scale = 1;
  Spread spread = Spread::logvar;
};

// Value and gradients in one pass, on a device: a forward that is given gradients too computes them for a guess of the
// cotangent, one number, if the history has one. A backward with the same guesses and gradients then computes again
// only those of blocks whose cotangent is another, and writes the history. No gradient may be per block.
constexpr int kHistories = 256;
struct Guesses {
  void* used = nullptr;  // those of the call, in `wide`, one for each block of each row; null: nothing is guessed
  int history = 0;       // below kHistories: calls that share one have cotangents of the same kind
};

// Arithmetic is in `wide`: f64 or f32.
struct RowCall {
  Formula formula;
  Params params;
  Type wide;
  int64_t rows, event, blocks;
  Input in[4];
  Output value;     // no data: not wanted
  Input cotangent;  // of the value, in `wide`, times `cotangent_scale`; no data: one
  double cotangent_scale = 1;
  Output gradient[4];  // of each input; no data: not wanted
  Guesses guesses;
  bool beyond_caches = false;

  // That of those gradients that are sums over rows, all the same; 0: there are none.
  int64_t rows_per_sum() const {
    int64_t rows = 0;
    for (const Output& output : gradient)
      if (output.data && output.rows_per_sum) rows = output.rows_per_sum;
    return rows;
  }
};

// z = mu + sigma eps for `samples` draws, of which the first is number `first_sample`, and the KL to N(0, I) if it is
// wanted.
//
// Each group of `key_rows` consecutive rows has a noise key. Element e of row r in sample number k uses number
// (k * key_rows + r % key_rows) * event + e of the noise of key r / key_rows. With one key for all rows, and from
// sample 0 on, that is the element's index in the result. On the CPU, where `logical` maps flat indices to others,
// those take the place of r * event + e.
struct SampleCall {
  Params params;
  Type wide;
  int64_t rows, event, blocks, samples;
  Input mu, spread;
  const int64_t* key;  // seed, offset, of each key, on the device
  int64_t key_rows;
  int64_t first_sample;
  Input logical;       // no dimensions: each flat index itself
  Output z;            // forward: [samples, rows, event]
  Output kl;           // forward; no data: not wanted
  Input z_cotangent;   // backward: over samples * rows * event flat indices; no data: zero
  Input kl_cotangent;  // backward, in `wide`; no data: zero
  double kl_cotangent_scale = 1;
  Output gradient[2];  // backward: of mu and spread
  bool beyond_caches = false;
  static constexpr int64_t rows_per_sum() { return 0; }
};

// Bits that are 1 with probability x * x_scale. Each group of `key_rows` rows has a key, as in a SampleCall: element e
// of row r is drawn by word (r % key_rows) * event + e of key r / key_rows.
struct BinarizeCall {
  double x_scale;
  Type wide;
  int64_t rows, event, blocks;
  Input x;
  const int64_t* key;
  int64_t key_rows;
  Input logical;  // as in a SampleCall
  static constexpr int64_t first_sample = 0;
  static constexpr int64_t rows_per_sum() { return 0; }
  uint8_t* bits;  // [rows, event], a byte each
};

// Unpacks rows of `count` bits, each starting at the highest bit of its first byte, to one byte per bit.
struct UnpackCall {
  const uint8_t* packed;  // [rows, width]
  uint8_t* bits;          // [rows, count]
  int64_t rows, width, count;
};

// Numbers along one more dimension of an operand, at each position: number `n` is `n * step` elements after the first.
struct Vectors {
  Input first;
  int64_t step = 0;
};

// log p(x | parameters) of positions that each have a vector of parameters: a pixel, a token. A row has `event`
// positions.
//   categorical                   `size` logits, and one integer in x, the class. One that is no class gives NaN.
//   discretized_logistic_mixture  `size` = 10 K parameters of K components, and three colours in x
enum class PositionFormula : int { categorical, discretized_logistic_mixture };
struct PositionCall {
  PositionFormula formula;
  Type wide;
  int64_t rows, event, block, blocks;  // a row is summed in blocks of so many positions: kPositions, or on a device one
  int64_t size;
  Vectors x, parameters;
  Output value;     // for each block, or each position; no data: not wanted
  Input cotangent;  // of the value, in `wide`, times `cotangent_scale`; no data: one
  double cotangent_scale = 1;
  void* gradient = nullptr;  // of the parameters, in their type; null: not wanted
  Vectors gradient_layout;
};
constexpr int64_t kPositions = 256;

// What a linear layer computes beside its products, on the CPU, of float32 matrices [rows, features] in row-major
// order.

// y = tanh(y + bias).
struct ActivationCall {
  float* y;
  const float* bias;  // null: zero
  int64_t rows, features;
};

// The gradient by a layer's output before tanh, cotangent (1 - y^2), and its sum over the rows, which is the bias'.
struct ActivationBackwardCall {
  const float* cotangent;
  const float* y;        // null: there is no tanh
  float* gradient;       // null: not wanted
  float* bias_gradient;  // null: not wanted
  int64_t rows, features;
};

// Bytes as numbers, multiplied by `scale`.
struct ScaleCall {
  const uint8_t* bytes;
  float* numbers;
  float scale;
  int64_t count;
};

// The log density of rows z under mixtures of diagonal Gaussians (formulas/mixture.h), in `wide`: of one mixture over
// all dimensions, or of each dimension's own mixture, their product's marginals. A problem is one of these: `event`
// dimensions of z, which is [rows, problems, event]. Components lie in panels: those of mu are
// [problems, components / kPanel, event, kPanel]; what pads them has the weight 0.
constexpr int64_t kPanel = 16;
struct MixtureCall {
  Type wide;
  int64_t rows, problems, event, components;
  const void* z;
  const void *mu, *inverse_std;
  const void* log_weight;  // [problems, components]: c_k
  void* log_density;       // [rows, problems]: the forward's result, and read by the backward
  // Backward. The rows are divided into parts, each with sums of its own over its rows.
  const void* cotangent;         // [rows, problems]
  void* dz;                      // as z; null: not wanted
  int64_t parts, rows_per_part;  // whole tiles of rows
  void *of_mu, *of_logvar;       // [parts, *mu's shape], without their factors; null: not wanted
  void* of_log_weight;           // [parts, problems, components]; null with these
  void* scratch;                 // on the CPU: kMixtureRows * event * kPanel numbers for each part
};
constexpr int64_t kMixtureRows = 16;  // of a tile

}  // namespace aevb
