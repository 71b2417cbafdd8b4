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
void activate(const ActivationCall& call);
void activate_backward(const ActivationBackwardCall& call);
void scale_bytes(const ScaleCall& call);
void mixture_forward(const MixtureCall& call);
void mixture_backward(const MixtureCall& call);

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
void mixture_forward(const MixtureCall& call, c10::Device device);
void mixture_backward(const MixtureCall& call, c10::Device device);

}  // namespace aevb::cuda

namespace aevb {

// Whether a device runs the kernels in cuda/, and what goes by them holds for it: nothing reads a number of a tensor,
// no kernel writes what it reads. In a library built with AEVB_CUDA=emulated, for tests, the CPU is such a device.
bool runs_cuda(c10::Device device);

// Whether this library has these kernels for it. They can guess a cotangent (Guesses in call.h).
bool guesses_cotangents(c10::Device device);

// Value or gradients, or both at once: with the kernels in cuda/ for a guess.
void rows(const RowCall& call, c10::Device device);
void sample_forward(const SampleCall& call, c10::Device device);
void sample_backward(const SampleCall& call, c10::Device device);
void binarize(const BinarizeCall& call, c10::Device device);
void unpack_bits(const UnpackCall& call, c10::Device device);
void mixture_forward(const MixtureCall& call, c10::Device device);
void mixture_backward(const MixtureCall& call, c10::Device device);

}  // namespace aevb
