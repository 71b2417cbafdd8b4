#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/launch.h"
#include "ops/register.h"

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

Tensor noise_key(c10::Device device, const Generator& generator, Count n, int64_t /*call*/) {
  TORCH_CHECK_VALUE(!generator || generator->device().type() == device.type(), "generator is on ", generator->device(),
                    ", but the key is for ", device, ": expected both on one device");
  if (device.is_meta()) return at::empty_symint(sizes_of(n), at::TensorOptions(device).dtype(at::kLong));
  if (device.is_cpu()) return cpu_keys(generator, n);
#ifdef AEVB_WITH_CUDA
  const auto count = n ? std::optional<int64_t>(n->expect_int()) : std::nullopt;
  return cuda::noise_key(device, generator, count);
#else
  TORCH_CHECK(false, needs_cuda_build_message("aevb_ext::noise_key"));
#endif
}

}  // namespace

// Seeded and nondeterministic: a compiler must neither merge two draws nor draw again instead of keeping one. (What
// divides a graph into forward and backward does merge them, unless `call` differs: it goes by a list of its own.)
TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("noise_key(Device device, *, Generator? generator=None, SymInt? n=None, int call=0) -> Tensor",
        {at::Tag::nondeterministic_seeded});
}
TORCH_LIBRARY_IMPL(aevb_ext, CompositeExplicitAutograd, m) { m.impl("noise_key", TORCH_FN(noise_key)); }

}  // namespace aevb
