// The instruction sets that the kernels are compiled for, and which of them this CPU runs.
#pragma once
#include <vector>

#include "cpu/kernels.h"

namespace aevb::cpu {

// All in this library, narrowest first.
std::vector<const char*> instruction_sets();

// The kernels of the widest that runs here, or of the one that is named; null if that is not here or does not run.
const CpuKernels* find_kernels(const char* name);

}  // namespace aevb::cpu
