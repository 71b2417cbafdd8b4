// Tensors, as the kernels are told about them.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>

#include "call.h"

namespace aevb {

at::ScalarType wide_type(const at::Tensor& t);  // what arithmetic is done in: float32, or float64 for float64
Type type_of(at::ScalarType type);

// `t` read at every index of `sizes`, to which it broadcasts. A tensor whose dimensions do not merge into few enough is
// replaced by its contiguous copy.
Input describe(at::Tensor& t, at::IntArrayRef sizes);

// How many blocks a row of `event` elements is summed in.
inline int64_t blocks_of(int64_t event) { return (event + kBlock - 1) / kBlock; }

// Whether `second` lies right behind `first` in each row, of `event` contiguous elements: the two halves of one tensor.
bool are_halves(const at::Tensor& first, const at::Tensor& second, int64_t event);

// Two uninitialised tensors of `half`'s shape that lie so.
std::array<at::Tensor, 2> empty_halves(const at::Tensor& half, int64_t event);

}  // namespace aevb
