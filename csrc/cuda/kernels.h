// The kernels of the GPU, as seen from outside: plain data and a stream in, the launch's error code out. Nothing here
// waits for the device.
#pragma once
#include <cuda_runtime_api.h>

#include "call.h"

namespace at {
struct PhiloxCudaState;
}

namespace aevb::cuda {

cudaError_t row_forward(const RowCall& call, cudaStream_t stream);
cudaError_t row_backward(const RowCall& call, cudaStream_t stream);
cudaError_t sample_forward(const SampleCall& call, cudaStream_t stream);
cudaError_t sample_backward(const SampleCall& call, cudaStream_t stream);

// Writes (seed, offset) to key[0] and key[1], on the device.
cudaError_t noise_key(const at::PhiloxCudaState& state, int64_t* key, cudaStream_t stream);

}  // namespace aevb::cuda
