#include <c10/util/Exception.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdlib>

#include "cpu/instruction_sets.h"
#include "ops/common/launch.h"

#ifdef __linux__
#include <pthread.h>
#endif

namespace aevb::cpu {
namespace {

// Results larger than this are not found in the caches again. (The size that a machine reports for its last-level cache
// is unreliable: virtual machines report that of the whole host.)
constexpr int64_t kCacheBytes = 32 << 20;

// The bytes that a call reads and writes.
int64_t bytes_of(const RowCall& call) {
  int64_t each = 0;
  for (const Input& input : call.in)
    if (input.data && input.stride[input.dims - 1]) each += size_of(input.type);
  for (const Output& gradient : call.gradient)
    if (gradient.data && !gradient.per_block && !gradient.rows_per_sum) each += size_of(gradient.type);
  if (call.value.data && !call.value.per_block) each += size_of(call.value.type);
  return call.rows * call.event * each;
}

int64_t bytes_of(const SampleCall& call) {
  int64_t each = size_of(call.mu.type) + size_of(call.spread.type), draws = 0;
  for (const Output& gradient : call.gradient)
    if (gradient.data && !gradient.per_block) each += size_of(gradient.type);
  if (call.z.data) draws += size_of(call.z.type);
  if (call.z_cotangent.data) draws += size_of(call.z_cotangent.type);
  return call.rows * call.event * (each + call.samples * draws);
}

template <class Call>
Call sized(Call call) {
  call.beyond_caches = bytes_of(call) > kCacheBytes;
  return call;
}

// The child of a fork has one thread. OpenMP expects the threads of the parent, and GNU's would wait for them forever.
#ifdef __linux__
bool in_forked_child = false;
[[maybe_unused]] const int noticed = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
#else
constexpr bool in_forked_child = false;
#endif

// With fewer elements, waking a thread costs more than it saves.
constexpr int64_t kGrain = 16384;

// PyTorch's threads share `count` pieces, at least `grain` each. (at::parallel_for is a template: it would be serial
// where this library's compiler has no OpenMP, and have threads of its own where it has another than PyTorch's.)
template <class Call, class Kernel>
void share(const Call& call, int64_t count, int64_t grain, const Kernel& kernel) {
  auto some = [&](int64_t begin, int64_t end) { kernel(call, begin, end); };
  const auto run = [](int64_t begin, int64_t end, void* of) { (*static_cast<decltype(some)*>(of))(begin, end); };
  const auto error = torch_parallel_for(0, count, in_forked_child ? count : grain, run, &some);
  TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "PyTorch's threads did not run");
}

template <class Call>
void run(const Call& call, int64_t elements_each, void (*kernel)(const Call&, int64_t, int64_t)) {
  if (call.rows == 0 || call.blocks == 0) return;
  const Tiles tiles = kernels().tiles(call.rows, call.event, call.blocks, call.rows_per_sum());
  const int64_t per_tile = std::max<int64_t>(call.rows * call.event * elements_each / tiles.count, 1);
  share(call, tiles.count, std::max<int64_t>(kGrain / per_tile, 1), kernel);
}

}  // namespace

const CpuKernels& kernels() {
  static const CpuKernels& chosen = []() -> const CpuKernels& {
    const char* wanted = std::getenv("AEVB_CPU_ISA");
    const CpuKernels* found = find_kernels(wanted);
    TORCH_CHECK_VALUE(found, "AEVB_CPU_ISA is \"", wanted, "\", which this library or this CPU does not have");
    return *found;
  }();
  return chosen;
}

void rows(const RowCall& call) { run(sized(call), 1, kernels().rows); }
void positions(const PositionCall& call) {
  const Tiles tiles = kernels().position_tiles(call);
  const int64_t per_tile = std::max<int64_t>(call.rows * call.event * call.size / tiles.count, 1);
  const bool categorical = call.formula == PositionFormula::categorical;
  share(call, tiles.count, std::max<int64_t>(kGrain / per_tile, 1),
        categorical ? kernels().categorical : kernels().discretized_logistic_mixture);
}
void sample_forward(const SampleCall& call) { run(sized(call), call.samples, kernels().sample_forward); }
void sample_backward(const SampleCall& call) { run(sized(call), call.samples, kernels().sample_backward); }
void binarize(const BinarizeCall& call) { run(call, 1, kernels().binarize); }

void unpack_bits(const UnpackCall& call) { share(call, call.rows * call.width, kGrain, kernels().unpack_bits); }

void activate(const ActivationCall& call) {
  share(call, call.rows, kGrain / std::max<int64_t>(call.features, 1) + 1, kernels().activate);
}

void activate_backward(const ActivationBackwardCall& call) {
  // Each thread has whole cache lines of each row.
  constexpr int64_t line = 16;
  const int64_t lines = (call.features + line - 1) / line;
  share(call, lines, kGrain / std::max<int64_t>(call.rows * line, 1) + 1,
        [](const ActivationBackwardCall& call, int64_t begin, int64_t end) {
          kernels().activate_backward(call, begin * line, std::min(end * line, call.features));
        });
}

void scale_bytes(const ScaleCall& call) { share(call, call.count, kGrain, kernels().scale_bytes); }

void mixture_forward(const MixtureCall& call) {
  const int64_t per_row = call.problems * call.event * call.components;
  share(call, (call.rows + kMixtureRows - 1) / kMixtureRows, kGrain / (per_row * kMixtureRows) + 1,
        kernels().mixture_forward);
}
void mixture_backward(const MixtureCall& call) {
  const int64_t per_row = call.problems * call.event * call.components;
  share(call, call.parts, kGrain / (per_row * call.rows_per_part) + 1, kernels().mixture_backward);
}

}  // namespace aevb::cpu
