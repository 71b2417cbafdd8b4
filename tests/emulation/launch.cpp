// Calls to the kernels that "run on a GPU" (csrc/ops/common/launch.h), in a library built with AEVB_CUDA=emulated.
#include "ops/common/launch.h"

#include <c10/util/Exception.h>

#include <mutex>

#include "buffers.h"

namespace aevb::cuda {
namespace {

template <class Call>
void launch(cudaError_t (*kernel)(const Call&, cudaStream_t), const Call& call) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const cudaError_t error = emulation::watched(kernel, call);
  TORCH_CHECK(error == cudaSuccess, "emulated CUDA: a call that no kernel is for (cudaError_t ", int(error), ")");
}

}  // namespace

void row_forward(const RowCall& call, c10::Device) { launch<RowCall>(row_forward, call); }
void row_backward(const RowCall& call, c10::Device) { launch<RowCall>(row_backward, call); }
void sample_forward(const SampleCall& call, c10::Device) { launch<SampleCall>(sample_forward, call); }
void sample_backward(const SampleCall& call, c10::Device) { launch<SampleCall>(sample_backward, call); }
void binarize(const BinarizeCall& call, c10::Device) { launch<BinarizeCall>(binarize, call); }
void unpack_bits(const UnpackCall& call, c10::Device) { launch<UnpackCall>(unpack_bits, call); }
void mixture_forward(const MixtureCall& call, c10::Device) { launch<MixtureCall>(mixture_forward, call); }
void mixture_backward(const MixtureCall& call, c10::Device) { launch<MixtureCall>(mixture_backward, call); }

}  // namespace aevb::cuda
