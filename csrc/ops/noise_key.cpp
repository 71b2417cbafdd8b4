#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/launch.h"
#include "ops/register.h"

namespace aevb {
namespace {

// A fresh seed from the generator, at offset 0.
at::Tensor cpu_key(const std::optional<at::Generator>& generator) {
  auto* state = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  at::Tensor key = at::empty({2}, at::kLong);
  int64_t* words = key.mutable_data_ptr<int64_t>();
  std::lock_guard<std::mutex> lock(state->mutex_);
  words[0] = int64_t(state->random64());
  words[1] = 0;
  return key;
}

at::Tensor noise_key(c10::Device device, const std::optional<at::Generator>& generator) {
  TORCH_CHECK_VALUE(!generator || generator->device().type() == device.type(), "generator is on ", generator->device(),
                    ", but the key is for ", device, ": expected both on one device");
  if (device.is_meta()) return at::empty({2}, at::TensorOptions(device).dtype(at::kLong));
  if (device.is_cpu()) return cpu_key(generator);
#ifdef AEVB_WITH_CUDA
  return cuda::noise_key(device, generator);
#else
  TORCH_CHECK(false, needs_cuda_build_message("aevb_ext::noise_key"));
#endif
}

}  // namespace

// Seeded and nondeterministic: a compiler must neither merge two draws nor draw again instead of keeping one.
TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("noise_key(Device device, *, Generator? generator=None) -> Tensor", {at::Tag::nondeterministic_seeded});
}
TORCH_LIBRARY_IMPL(aevb_ext, CompositeExplicitAutograd, m) { m.impl("noise_key", TORCH_FN(noise_key)); }

}  // namespace aevb
