// Runs a call on the CPU: picks the instruction set once, shares the tiles among PyTorch's threads.
#pragma once
#include <vector>

#include "call.h"

namespace aevb::cpu {

void rows(const RowCall& call);
void sample_forward(const SampleCall& call);
void sample_backward(const SampleCall& call);
void binarize(const BinarizeCall& call);
void unpack_bits(const UnpackCall& call);

// The instruction sets in this library, narrowest first, and the one in use.
std::vector<const char*> instruction_sets();
const char* instruction_set();

}  // namespace aevb::cpu
