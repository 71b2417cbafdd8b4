// Noise keys from the state of a generator.
#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace aevb::device {
namespace {

// Makes our streams differ from those that PyTorch's own kernels draw with the same seed: "aevb.key" in ASCII.
constexpr uint64_t kApart = 0x616576622e6b6579;

struct KeyTask {
  cuda::GeneratorState state;
  int64_t* keys;
  int64_t count;
};

// A captured graph has the generator's state in device memory only, hence a kernel for two numbers.
__global__ void write_keys(const __grid_constant__ KeyTask task) {
  const auto [seed, offset, captured_seed, captured_offset] = task.state;
  const auto own = static_cast<int64_t>((captured_seed ? static_cast<uint64_t>(*captured_seed) : seed) ^ kApart);
  const auto first = static_cast<int64_t>(offset + (captured_offset ? static_cast<uint64_t>(*captured_offset) : 0));
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < task.count;
       i += int64_t(gridDim.x) * blockDim.x) {
    task.keys[2 * i] = own;
    task.keys[2 * i + 1] = first + cuda::kNumbersPerKey * i;
  }
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t noise_keys(const GeneratorState& state, int64_t* keys, int64_t count, cudaStream_t stream) {
  constexpr int64_t threads = 128, most = 1024;
  const auto grid = static_cast<unsigned>(std::min((count + threads - 1) / threads, most));
  return device::launch(device::write_keys, grid, count == 1 ? 1 : threads, stream,
                        device::KeyTask{state, keys, count});
}

}  // namespace aevb::cuda
