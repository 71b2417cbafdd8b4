// Means and spreads that are the two halves of one tensor, as an encoder with one last layer gives them.
//
// Their gradients are wanted as the two halves of one tensor again. PyTorch's own chunk puts them together by a copy of
// both into fresh memory, which costs more than computing them; here the kernels write them side by side, and the
// backward of `halves` finds them so.
#pragma once
#include <ATen/core/Tensor.h>

namespace aevb {

// Whether `second` lies right behind `first` in each row, of `event` contiguous elements.
bool are_halves(const at::Tensor& first, const at::Tensor& second, int64_t event);

// Two uninitialised tensors of `half`'s shape that lie so.
std::array<at::Tensor, 2> empty_halves(const at::Tensor& half, int64_t event);

}  // namespace aevb
