// A call to the kernels of the device it is for.
#pragma once
#include <c10/core/Device.h>

#include "cpu/dispatch.h"
#ifdef AEVB_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace aevb {

#ifdef AEVB_WITH_CUDA
#define AEVB_LAUNCH(kernel) device.is_cuda() ? cuda::kernel(call, device) : cpu::kernel(call)
#else
#define AEVB_LAUNCH(kernel) cpu::kernel(call)
#endif

// Value or gradients; on the CPU both at once as well.
inline void rows(const RowCall& call, [[maybe_unused]] c10::Device device) {
#ifdef AEVB_WITH_CUDA
  if (device.is_cuda()) return call.value.data ? cuda::row_forward(call, device) : cuda::row_backward(call, device);
#endif
  cpu::rows(call);
}
inline void sample_forward(const SampleCall& call, [[maybe_unused]] c10::Device device) { AEVB_LAUNCH(sample_forward); }
inline void sample_backward(const SampleCall& call, [[maybe_unused]] c10::Device device) {
  AEVB_LAUNCH(sample_backward);
}
inline void binarize(const BinarizeCall& call, [[maybe_unused]] c10::Device device) { AEVB_LAUNCH(binarize); }
inline void unpack_bits(const UnpackCall& call, [[maybe_unused]] c10::Device device) { AEVB_LAUNCH(unpack_bits); }

#undef AEVB_LAUNCH

}  // namespace aevb
