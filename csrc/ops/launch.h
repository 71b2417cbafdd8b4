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

inline void row_forward(const RowCall& call, [[maybe_unused]] c10::Device device) { AEVB_LAUNCH(row_forward); }
inline void row_backward(const RowCall& call, [[maybe_unused]] c10::Device device) { AEVB_LAUNCH(row_backward); }
inline void sample_forward(const SampleCall& call, [[maybe_unused]] c10::Device device) { AEVB_LAUNCH(sample_forward); }
inline void sample_backward(const SampleCall& call, [[maybe_unused]] c10::Device device) {
  AEVB_LAUNCH(sample_backward);
}

#undef AEVB_LAUNCH

}  // namespace aevb
