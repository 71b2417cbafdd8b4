// Descriptions of tensors for the kernels.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>

#include "call.h"

namespace aevb {

at::ScalarType wide_type(const at::Tensor& t);  // the dtype of the arithmetic: float64 for float64, else float32
Type type_of(at::ScalarType type);

// `t` read at every index of `sizes`, to which it broadcasts. If its dimensions cannot be merged into few enough, `t`
// is replaced by a contiguous copy.
Input describe(at::Tensor& t, at::IntArrayRef sizes);

// The number of blocks in which a row of `event` elements is summed.
inline int64_t blocks_of(int64_t event) { return (event + kBlock - 1) / kBlock; }

// Whether `second` directly follows `first` in each row of `event` contiguous elements: the two halves of one tensor.
bool are_halves(const at::Tensor& first, const at::Tensor& second, int64_t event);

// Two uninitialised tensors of `half`'s shape that are the halves of one tensor.
std::array<at::Tensor, 2> empty_halves(const at::Tensor& half, int64_t event);

}  // namespace aevb
