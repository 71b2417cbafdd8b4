#include "cuda/launch.h"

#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>

#include "cuda/kernels.h"

namespace aevb::cuda {
namespace {

template <class Call>
void launch(cudaError_t (*kernel)(const Call&, cudaStream_t), const Call& call, at::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(kernel(call, c10::cuda::getCurrentCUDAStream()));
}

}  // namespace

void row_forward(const RowCall& call, at::Device device) { launch<RowCall>(row_forward, call, device); }
void row_backward(const RowCall& call, at::Device device) { launch<RowCall>(row_backward, call, device); }
void sample_forward(const SampleCall& call, at::Device device) { launch<SampleCall>(sample_forward, call, device); }
void sample_backward(const SampleCall& call, at::Device device) { launch<SampleCall>(sample_backward, call, device); }

at::Tensor noise_key(at::Device device, const std::optional<at::Generator>& generator) {
  const c10::cuda::OptionalCUDAGuard guard(device.has_index() ? std::make_optional(device) : std::nullopt);
  auto* state = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(c10::cuda::current_device()));
  at::Tensor key = at::empty({2}, at::TensorOptions().dtype(at::kLong).device(at::kCUDA, c10::cuda::current_device()));
  at::PhiloxCudaState drawn;
  {
    const std::lock_guard<std::mutex> lock(state->mutex_);
    drawn = state->philox_cuda_state(4);
  }
  C10_CUDA_CHECK(noise_key(drawn, key.mutable_data_ptr<int64_t>(), c10::cuda::getCurrentCUDAStream()));
  return key;
}

}  // namespace aevb::cuda
