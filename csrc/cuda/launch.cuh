// Launches a kernel.
#pragma once
#include <cuda_runtime.h>

namespace aevb::device {

template <class Task>
cudaError_t launch(void (*kernel)(Task), dim3 grid, unsigned threads, cudaStream_t stream, const Task& task) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = threads;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, task);
}

}  // namespace aevb::device
