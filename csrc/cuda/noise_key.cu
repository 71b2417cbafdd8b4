// A noise key from the state of a generator.
#include <ATen/cuda/PhiloxCudaState.h>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"

namespace aevb::device {
namespace {

// Sets our streams apart from those that PyTorch's own kernels draw with the same seed: "aevb.key" in ASCII.
constexpr uint64_t kApart = 0x616576622e6b6579;

struct KeyTask {
  at::PhiloxCudaState state;
  int64_t* key;
};

// In a captured graph the state is in device memory, and only when the graph is replayed: hence a kernel for two
// numbers.
__global__ void write_key(const __grid_constant__ KeyTask task) {
  const auto [seed, offset, offset_in_graph, captured] = task.state;
  task.key[0] = static_cast<int64_t>((captured ? static_cast<uint64_t>(*seed.ptr) : seed.val) ^ kApart);
  task.key[1] = static_cast<int64_t>(captured ? static_cast<uint64_t>(*offset.ptr) + offset_in_graph : offset.val);
}

}  // namespace
}  // namespace aevb::device

namespace aevb::cuda {

cudaError_t noise_key(const at::PhiloxCudaState& state, int64_t* key, cudaStream_t stream) {
  return device::launch(device::write_key, 1, 1, stream, device::KeyTask{state, key});
}

}  // namespace aevb::cuda
