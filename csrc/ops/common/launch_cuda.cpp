#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/kernels.h"
#include "ops/common/launch.h"

namespace aevb::cuda {
namespace {

template <class Call>
void launch(cudaError_t (*kernel)(const Call&, cudaStream_t), const Call& call, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(kernel(call, c10::cuda::getCurrentCUDAStream()));
}

}  // namespace

void row_forward(const RowCall& call, c10::Device device) { launch<RowCall>(row_forward, call, device); }
void row_backward(const RowCall& call, c10::Device device) { launch<RowCall>(row_backward, call, device); }
void sample_forward(const SampleCall& call, c10::Device device) { launch<SampleCall>(sample_forward, call, device); }
void sample_backward(const SampleCall& call, c10::Device device) { launch<SampleCall>(sample_backward, call, device); }
void binarize(const BinarizeCall& call, c10::Device device) { launch<BinarizeCall>(binarize, call, device); }
void unpack_bits(const UnpackCall& call, c10::Device device) { launch<UnpackCall>(unpack_bits, call, device); }
void mixture_forward(const MixtureCall& call, c10::Device device) {
  launch<MixtureCall>(mixture_forward, call, device);
}
void mixture_backward(const MixtureCall& call, c10::Device device) {
  launch<MixtureCall>(mixture_backward, call, device);
}

}  // namespace aevb::cuda
