// Draws bits from their probabilities. The fewest bytes to move: x once, and a byte for each bit.
#include "cuda/kernels.h"
#include "cuda/sample.cuh"

namespace aevb::device {
namespace {

struct BinarizeTask : DrawTask {
  Operand x;
  double scale;  // from x to a number that words are compared with
  uint8_t* bits;
};

template <class T>
__global__ void __launch_bounds__(kBlockThreads) binarize(const __grid_constant__ BinarizeTask task) {
  using N = Number<T>;
  const Noise<N> of_one(task.key);
  const N scale(task.scale);
  for_each_tile(task.tiling, [&](const Tile& tile) {
    const View<T, N> x_of(task.x, tile.row, tile.start);
    const TileNoise<N> noise(task, of_one, tile);
    for_each_quad(tile, noise.first, task.tiling.group, [&](const Quad& quad) {
      N x[kQuad];
      Word words[kQuad];
      load(x_of, quad, x);
      noise.of.draw(noise.first + quad.at, words);
      Number<uint8_t> bits[kQuad];
#pragma unroll
      for (int j = 0; j < kQuad; ++j) bits[j] = Number<uint8_t>(below(words[j], x[j] * scale) ? 1.0f : 0.0f);
      store<uint8_t>(task.bits, tile.first, quad, bits);
    });
  });
}

template <class T>
cudaError_t draw_bits(const BinarizeCall& call, cudaStream_t stream) {
  const bool one_key = call.key_rows == call.rows, flat = one_key && is_one_run(call.x);
  BinarizeTask task;
  task.tiling = tile(flat ? 1 : call.rows, flat ? call.rows * call.event : call.event, kQuadTile, kQuad, kBlockQuads);
  task.first_sample = call.first_sample;
  task.key = call.key;
  task.one_key = one_key;
  task.key_rows = Divisor(call.key_rows);
  task.x = Operand(call.x, task.tiling.event);
  task.scale = call.x_scale * 0x1p32;
  task.bits = call.bits;
  return launch(binarize<T>, task.tiling.grid(), task.tiling.threads(), stream, task);
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t binarize(const BinarizeCall& call, cudaStream_t stream) {
  if (call.rows == 0 || call.event == 0) return cudaSuccess;
  switch (call.x.type) {
    case Type::f64: return device::draw_bits<double>(call, stream);
    case Type::f32: return device::draw_bits<float>(call, stream);
    case Type::bf16: return device::draw_bits<__nv_bfloat16>(call, stream);
    case Type::f16: return device::draw_bits<__half>(call, stream);
    case Type::u8: return device::draw_bits<uint8_t>(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace aevb::cuda
