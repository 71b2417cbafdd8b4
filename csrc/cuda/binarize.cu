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

template <class T, class Q>
__device__ __forceinline__ void draw_bits(const BinarizeTask& task) {
  using N = Number<T>;
  using Index = typename Q::Index;
  const Noise<N> of_one(task.key);
  const N scale(task.scale);
  for_each_tile<Index>(task.tiling, [&](const TileOf<Index>& tile) {
    QuadsOf<T, N> x_of({task.x, tile.row, tile.start});
    const TileNoise<N> noise(task, of_one, tile);
    for_each_quad<Q>(task.tiling, tile, noise.first, [&](const Q& quad) {
      N x[kQuad];
      Word words[kQuad];
      x_of.load(quad, x);
      noise.draw(quad, words);
      Number<uint8_t> bits[kQuad];
#pragma unroll
      for (int j = 0; j < kQuad; ++j) bits[j] = Number<uint8_t>(below(words[j], x[j] * scale) ? 1.0f : 0.0f);
      store_quad<uint8_t>(task.bits + tile.first, quad, bits);
    });
  });
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads) binarize(const __grid_constant__ BinarizeTask task) {
  task.aligned ? draw_bits<T, WholeQuad>(task) : draw_bits<T, Quad>(task);
}

template <class T>
cudaError_t launch_binarize(const BinarizeCall& call, cudaStream_t stream) {
  BinarizeTask task;
  set_draws(task, call, call.key_rows == call.rows && is_one_run(call.x), false);
  task.x = Operand(call.x, task.tiling.event);
  task.scale = call.x_scale * 0x1p32;
  task.bits = call.bits;
  Alignment alignment(task.tiling, kQuad);
  alignment.include(task.x);
  alignment.include(Target({call.bits, Type::u8}, call.event));
  task.aligned = task.x.along == Along::run && alignment.holds() && samples_aligned(task, 1);
  return launch(binarize<T>, task.tiling.grid(), task.tiling.threads(), stream, task);
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t binarize(const BinarizeCall& call, cudaStream_t stream) {
  if (call.rows == 0 || call.event == 0) return cudaSuccess;
  switch (call.x.type) {
    case Type::f64: return device::launch_binarize<double>(call, stream);
    case Type::f32: return device::launch_binarize<float>(call, stream);
    case Type::bf16: return device::launch_binarize<__nv_bfloat16>(call, stream);
    case Type::f16: return device::launch_binarize<__half>(call, stream);
    case Type::u8: return device::launch_binarize<uint8_t>(call, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace aevb::cuda
