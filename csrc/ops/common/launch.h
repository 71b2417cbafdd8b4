// Calls the kernels of a device.
#pragma once
#include <c10/core/Device.h>

#include "call.h"
#include "cpu/kernels.h"

// On the CPU, PyTorch's threads share the tiles of a call.
namespace aevb::cpu {

void rows(const RowCall& call);
void sample_forward(const SampleCall& call);
void sample_backward(const SampleCall& call);
void binarize(const BinarizeCall& call);
void unpack_bits(const UnpackCall& call);

// The kernels in use: of the widest instruction set that this CPU supports, or of the one that AEVB_CPU_ISA names.
const CpuKernels& kernels();

}  // namespace aevb::cpu

// On a GPU a call runs on PyTorch's current stream there; launch errors are exceptions.
namespace aevb::cuda {

void row_forward(const RowCall& call, c10::Device device);
void row_backward(const RowCall& call, c10::Device device);
void sample_forward(const SampleCall& call, c10::Device device);
void sample_backward(const SampleCall& call, c10::Device device);
void binarize(const BinarizeCall& call, c10::Device device);
void unpack_bits(const UnpackCall& call, c10::Device device);

}  // namespace aevb::cuda

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
