#include "cuda/kernels.h"
#include "cuda/sample.cuh"

namespace aevb::cuda {

cudaError_t sample_forward(const SampleCall& call, cudaStream_t stream) {
  if (call.rows == 0 || call.event == 0 || call.samples == 0) return cudaSuccess;
  return device::run<device::DrawForward>(call, stream);
}

}  // namespace aevb::cuda
