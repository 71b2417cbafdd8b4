// Registration: one function serves all devices with kernels, and shape-only (meta) tensors.
#pragma once
#include <ATen/core/enum_tag.h>
#include <torch/library.h>

#include <string>
#include <vector>

#include "ops/common/direct_call.h"

namespace aevb {

// The tags of an operator that reads its operands however they lie in memory. Without them the compiler would copy an
// operand whose layout it chose itself (channels_last around convolutions) to the one that eager mode has there.
const std::vector<at::Tag> kAnyLayout = {at::Tag::flexible_layout};

// The error for a CUDA tensor in a build without CUDA, where the public functions compute in plain PyTorch.
inline void needs_cuda_build(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK(
      false, op.schema().name(),
      " was given CUDA tensors, but this aevb_ext was built for the CPU only. Build it with CUDA: with nvcc and a "
      "CUDA build of PyTorch installed, run `AEVB_CUDA=1 pip install --no-build-isolation .` in the source folder "
      "(`aevb doctor` says what is missing).");
}

#ifdef AEVB_WITH_CUDA
#define AEVB_CUDA_KERNEL(function) TORCH_FN(function)
#else
#define AEVB_CUDA_KERNEL(function) torch::CppFunction::makeFromBoxedFunction<&::aevb::needs_cuda_build>()
#endif

#define AEVB_CALL_DIRECTLY(name, function) \
  [[maybe_unused]] static const bool C10_CONCATENATE(direct_, C10_UID) = ::aevb::Direct<&function>::add(name);

#define AEVB_REGISTER(name, function)                                                 \
  AEVB_CALL_DIRECTLY(name, function)                                                  \
  TORCH_LIBRARY_IMPL(aevb_ext, CPU, m) { m.impl(name, TORCH_FN(function)); }          \
  TORCH_LIBRARY_IMPL(aevb_ext, CUDA, m) { m.impl(name, AEVB_CUDA_KERNEL(function)); } \
  TORCH_LIBRARY_IMPL(aevb_ext, Meta, m) { m.impl(name, TORCH_FN(function)); }

}  // namespace aevb
