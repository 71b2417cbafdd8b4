#include "ops/common/launch.h"

namespace aevb {

bool runs_cuda(c10::Device device) {
#ifdef AEVB_EMULATED
  return device.is_cpu();
#else
  return device.is_cuda();
#endif
}

bool guesses_cotangents([[maybe_unused]] c10::Device device) {
#if defined(AEVB_WITH_CUDA) || defined(AEVB_EMULATED)
  return runs_cuda(device);
#else
  return false;
#endif
}

#if defined(AEVB_WITH_CUDA) || defined(AEVB_EMULATED)
#define AEVB_LAUNCH(on_cuda, on_cpu) (runs_cuda(device) ? cuda::on_cuda(call, device) : cpu::on_cpu(call))
#else
#define AEVB_LAUNCH(on_cuda, on_cpu) ((void)device, cpu::on_cpu(call))
#endif

void rows(const RowCall& call, c10::Device device) {
  if (call.value.data)
    AEVB_LAUNCH(row_forward, rows);
  else
    AEVB_LAUNCH(row_backward, rows);
}
void sample_forward(const SampleCall& call, c10::Device device) { AEVB_LAUNCH(sample_forward, sample_forward); }
void sample_backward(const SampleCall& call, c10::Device device) { AEVB_LAUNCH(sample_backward, sample_backward); }
void binarize(const BinarizeCall& call, c10::Device device) { AEVB_LAUNCH(binarize, binarize); }
void unpack_bits(const UnpackCall& call, c10::Device device) { AEVB_LAUNCH(unpack_bits, unpack_bits); }
void mixture_forward(const MixtureCall& call, c10::Device device) { AEVB_LAUNCH(mixture_forward, mixture_forward); }
void mixture_backward(const MixtureCall& call, c10::Device device) { AEVB_LAUNCH(mixture_backward, mixture_backward); }

}  // namespace aevb
