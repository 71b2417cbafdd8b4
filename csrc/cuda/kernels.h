// The interface of the GPU's kernels: they take plain data and a stream, and return the launch's error code. None waits
// for the device.
#pragma once
#include <cuda_runtime_api.h>

#include "call.h"

namespace aevb::cuda {

cudaError_t row_forward(const RowCall& call, cudaStream_t stream);
cudaError_t row_backward(const RowCall& call, cudaStream_t stream);
cudaError_t sample_forward(const SampleCall& call, cudaStream_t stream);
cudaError_t sample_backward(const SampleCall& call, cudaStream_t stream);
cudaError_t binarize(const BinarizeCall& call, cudaStream_t stream);
cudaError_t unpack_bits(const UnpackCall& call, cudaStream_t stream);
cudaError_t mixture_forward(const MixtureCall& call, cudaStream_t stream);
cudaError_t mixture_backward(const MixtureCall& call, cudaStream_t stream);

// A generator's state. In a captured graph the seed and the increment of the offset are read from device memory when
// the graph is replayed; otherwise the pointers are null.
struct GeneratorState {
  uint64_t seed, offset;
  const int64_t *captured_seed, *captured_offset;
};

// Writes the (seed, offset) of `count` draws to keys, on the device.
constexpr int64_t kNumbersPerKey = 4;  // that a draw takes from the generator
cudaError_t noise_keys(const GeneratorState& state, int64_t* keys, int64_t count, cudaStream_t stream);

}  // namespace aevb::cuda
