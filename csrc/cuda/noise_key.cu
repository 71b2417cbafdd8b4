// Noise keys from the state of a generator.
#include <ATen/cuda/PhiloxCudaState.h>

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace aevb::device {
namespace {

// Sets our streams apart from those that PyTorch's own kernels draw with the same seed: "aevb.key" in ASCII.
constexpr uint64_t kApart = 0x616576622e6b6579;

struct KeyTask {
  at::PhiloxCudaState state;
  int64_t* keys;
  int64_t count;
};

// In a captured graph the state is in device memory, and only when the graph is replayed: hence a kernel for two
// numbers.
__global__ void write_keys(const __grid_constant__ KeyTask task) {
  const auto [seed, offset, offset_in_graph, captured] = task.state;
  const auto own = static_cast<int64_t>((captured ? static_cast<uint64_t>(*seed.ptr) : seed.val) ^ kApart);
  const auto first = static_cast<int64_t>(captured ? static_cast<uint64_t>(*offset.ptr) + offset_in_graph : offset.val);
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < task.count;
       i += int64_t(gridDim.x) * blockDim.x) {
    task.keys[2 * i] = own;
    task.keys[2 * i + 1] = first + cuda::kNumbersPerKey * i;
  }
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t noise_keys(const at::PhiloxCudaState& state, int64_t* keys, int64_t count, cudaStream_t stream) {
  constexpr int64_t threads = 128, most = 1024;
  const auto grid = static_cast<unsigned>(std::min((count + threads - 1) / threads, most));
  return device::launch(device::write_keys, grid, count == 1 ? 1 : threads, stream,
                        device::KeyTask{state, keys, count});
}

}  // namespace aevb::cuda
