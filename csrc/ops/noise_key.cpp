// Noise keys: the seed and the offset of a draw, taken from PyTorch's generators.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>
#ifdef AEVB_WITH_CUDA
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/kernels.h"
#endif

#include <limits>
#include <mutex>

#include "ops/common/register.h"

namespace aevb {
namespace {

using at::Tensor;
using Generator = std::optional<at::Generator>;
using Count = std::optional<c10::SymInt>;  // of keys, [n, 2]: those of n draws; none: one, [2]

c10::SymDimVector sizes_of(const Count& n) { return n ? c10::SymDimVector{*n, 2} : c10::SymDimVector{2}; }

// Fresh seeds from the generator, at offset 0.
Tensor cpu_keys(const Generator& generator, const Count& n) {
  auto* state = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  Tensor keys = at::empty_symint(sizes_of(n), at::kLong);
  int64_t* words = keys.mutable_data_ptr<int64_t>();
  std::lock_guard<std::mutex> lock(state->mutex_);
  for (const int64_t* end = words + keys.numel(); words != end; words += 2) {
    words[0] = int64_t(state->random64());
    words[1] = 0;
  }
  return keys;
}

#ifdef AEVB_WITH_CUDA
// The generator advances as for a draw of four numbers a thread; inside a graph capture, each replay makes new keys.
Tensor cuda_keys(c10::Device device, const Generator& generator, const Count& n) {
  const c10::cuda::OptionalCUDAGuard guard(device.has_index() ? std::make_optional(device) : std::nullopt);
  auto* state = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(c10::cuda::current_device()));
  const auto options = at::TensorOptions().dtype(at::kLong).device(at::kCUDA, c10::cuda::current_device());
  Tensor keys = at::empty_symint(sizes_of(n), options);
  if (keys.numel() == 0) return keys;
  const int64_t count = keys.numel() / 2;
  at::PhiloxCudaState drawn;
  {
    const std::lock_guard<std::mutex> lock(state->mutex_);
    drawn = state->philox_cuda_state(cuda::kNumbersPerKey * count);
  }
  const auto [seed, offset, offset_in_graph, captured] = drawn;
  const cuda::GeneratorState from = captured ? cuda::GeneratorState{0, offset_in_graph, seed.ptr, offset.ptr}
                                             : cuda::GeneratorState{seed.val, offset.val, nullptr, nullptr};
  C10_CUDA_CHECK(cuda::noise_keys(from, keys.mutable_data_ptr<int64_t>(), count, c10::cuda::getCurrentCUDAStream()));
  return keys;
}
#endif

// On a device without kernels, whose noise is computed in plain PyTorch: 64 bits of its generator for each key.
Tensor other_keys(c10::Device device, const Generator& generator, const Count& n) {
  Tensor keys = at::zeros_symint(sizes_of(n), at::TensorOptions(device).dtype(at::kLong));
  keys.select(-1, 0).random_(std::numeric_limits<int64_t>::min(), std::nullopt, generator);
  return keys;
}

Tensor noise_key(c10::Device device, const Generator& generator, Count n, int64_t /*call*/) {
  TORCH_CHECK_VALUE(!generator || generator->device().type() == device.type(), "generator is on ", generator->device(),
                    ", but the key is for ", device, ": expected both on one device");
  if (device.is_meta()) return at::empty_symint(sizes_of(n), at::TensorOptions(device).dtype(at::kLong));
  if (device.is_cpu()) return cpu_keys(generator, n);
#ifdef AEVB_WITH_CUDA
  if (device.is_cuda()) return cuda_keys(device, generator, n);
#endif
  return other_keys(device, generator, n);
}

}  // namespace

// Tagged as seeded and nondeterministic: a compiler must neither merge two draws nor repeat one instead of keeping it.
// (The partitioner of forward and backward has its own list and merges draws all the same, unless `call` differs. And
// compiled activation checkpointing, which repeats a draw, looks for the device among the keyword arguments.)
TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("noise_key(*, Device device, Generator? generator=None, SymInt? n=None, int call=0) -> Tensor",
        {at::Tag::nondeterministic_seeded});
}
TORCH_LIBRARY_IMPL(aevb_ext, CompositeExplicitAutograd, m) { m.impl("noise_key", TORCH_FN(noise_key)); }
AEVB_CALL_DIRECTLY("noise_key", noise_key)

}  // namespace aevb
