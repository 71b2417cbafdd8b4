// The instruction sets that the kernels are compiled for, and the choice of one that this CPU supports.
#pragma once
#include <vector>

#include "cpu/kernels.h"

namespace aevb::cpu {

// All instruction sets in this library, narrowest first.
std::vector<const char*> instruction_sets();

// The kernels of the widest set that this CPU supports, or of the named one; null if it is missing or not supported.
const CpuKernels* find_kernels(const char* name);

}  // namespace aevb::cpu
