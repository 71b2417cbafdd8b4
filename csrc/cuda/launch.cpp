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
void binarize(const BinarizeCall& call, at::Device device) { launch<BinarizeCall>(binarize, call, device); }
void unpack_bits(const UnpackCall& call, at::Device device) { launch<UnpackCall>(unpack_bits, call, device); }

at::Tensor noise_key(at::Device device, const std::optional<at::Generator>& generator, std::optional<int64_t> n) {
  const c10::cuda::OptionalCUDAGuard guard(device.has_index() ? std::make_optional(device) : std::nullopt);
  auto* state = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(c10::cuda::current_device()));
  const auto sizes = n ? c10::DimVector{*n, 2} : c10::DimVector{2};
  const auto options = at::TensorOptions().dtype(at::kLong).device(at::kCUDA, c10::cuda::current_device());
  at::Tensor keys = at::empty(sizes, options);
  if (keys.numel() == 0) return keys;
  at::PhiloxCudaState drawn;
  {
    const std::lock_guard<std::mutex> lock(state->mutex_);
    drawn = state->philox_cuda_state(kNumbersPerKey * n.value_or(1));
  }
  C10_CUDA_CHECK(noise_keys(drawn, keys.mutable_data_ptr<int64_t>(), n.value_or(1), c10::cuda::getCurrentCUDAStream()));
  return keys;
}

}  // namespace aevb::cuda
