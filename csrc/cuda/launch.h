// The kernels of the GPU for the operators: on a device, on PyTorch's current stream there, launch errors as
// exceptions.
#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "call.h"

namespace aevb::cuda {

void row_forward(const RowCall& call, at::Device device);
void row_backward(const RowCall& call, at::Device device);
void sample_forward(const SampleCall& call, at::Device device);
void sample_backward(const SampleCall& call, at::Device device);
void binarize(const BinarizeCall& call, at::Device device);
void unpack_bits(const UnpackCall& call, at::Device device);

// A fresh noise key, int64 [2], of `generator` or of the device's default one. Advances the generator as a draw of four
// numbers a thread does; inside a graph capture, each replay makes a new key. With n, the keys of as many draws, [n,
// 2].
at::Tensor noise_key(at::Device device, const std::optional<at::Generator>& generator, std::optional<int64_t> n);

}  // namespace aevb::cuda
