// Families of formulas over rows that have sources of their own (kernels.cpp has the others).
#pragma once
#include "call.h"

namespace aevb::AEVB_ISA {

void rows_of_counts(const RowCall& call, int64_t begin, int64_t end);
void rows_of_continuous(const RowCall& call, int64_t begin, int64_t end);

}  // namespace aevb::AEVB_ISA
