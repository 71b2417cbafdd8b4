#include "cpu/instruction_sets.h"

#include <cstring>

#ifndef AEVB_BASELINE_ONLY
#include <cpuid.h>
#endif

namespace aevb::cpu {
namespace {

struct Candidate {
  const CpuKernels* kernels;
  bool runs_here;
};

#ifndef AEVB_BASELINE_ONLY
// __builtin_cpu_supports("f16c") is an error for Clang 14.
bool supports_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

std::vector<Candidate> candidates() {
  std::vector<Candidate> all = {{&baseline::kernels, true}};
#ifndef AEVB_BASELINE_ONLY
  // Check every feature that the object is compiled with (setup.py), not only the one that it is named after.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  all.push_back({&avx2::kernels, avx2});
  all.push_back({&avx512::kernels, avx512});
#endif
  return all;
}

}  // namespace

std::vector<const char*> instruction_sets() {
  std::vector<const char*> names;
  for (const auto& candidate : candidates()) names.push_back(candidate.kernels->name);
  return names;
}

const CpuKernels* find_kernels(const char* name) {
  const CpuKernels* widest = nullptr;
  for (const auto& [kernels, runs_here] : candidates())
    if (runs_here && (!name || !std::strcmp(name, kernels->name))) widest = kernels;
  return widest;
}

}  // namespace aevb::cpu
