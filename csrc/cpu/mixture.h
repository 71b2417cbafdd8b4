// Mixtures of Gaussians (call.h, MixtureCall): a source of its own, compiled for each instruction set.
#pragma once
#include "call.h"

namespace aevb::AEVB_ISA {

void mixture_forward(const MixtureCall& call, int64_t begin, int64_t end);   // tiles of kMixtureRows rows
void mixture_backward(const MixtureCall& call, int64_t begin, int64_t end);  // parts

}  // namespace aevb::AEVB_ISA
