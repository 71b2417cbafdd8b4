// Unpacks bits to one byte each: a thread takes a packed byte at a time.
#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/load.cuh"

namespace aevb::device {
namespace {

struct UnpackTask {
  UnpackCall call;
  Divisor width;
};

__global__ void __launch_bounds__(kBlockThreads) unpack_bits(const __grid_constant__ UnpackTask task) {
  const UnpackCall& call = task.call;
  const int64_t bytes = call.rows * call.width;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < bytes; i += int64_t(gridDim.x) * blockDim.x) {
    int64_t at = i;
    const int64_t row = divide(at, task.width);
    const unsigned byte = __ldg(call.packed + i);
    Pack<uint8_t, 8> bits;
#pragma unroll
    for (int j = 0; j < 8; ++j) bits.v[j] = byte >> (7 - j) & 1;
    uint8_t* const to = call.bits + row * call.count + 8 * at;
    if (8 * at + 8 <= call.count && aligned<8>(to)) {
      store(to, bits);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (8 * at + j < call.count) to[j] = bits.v[j];
    }
  }
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t unpack_bits(const UnpackCall& call, cudaStream_t stream) {
  const int64_t blocks = (call.rows * call.width + device::kBlockThreads - 1) / device::kBlockThreads;
  if (blocks == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(std::min(blocks, device::kMaxGrid));
  return device::launch(device::unpack_bits, grid, device::kBlockThreads, stream,
                        device::UnpackTask{call, device::Divisor(call.width)});
}

}  // namespace aevb::cuda
