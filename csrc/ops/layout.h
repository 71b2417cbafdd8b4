// Tensors, as the kernels are told about them.
#pragma once
#include <ATen/core/Tensor.h>

#include "call.h"

namespace aevb {

at::ScalarType wide_type(const at::Tensor& t);  // what arithmetic is done in: float32, or float64 for float64
Type type_of(at::ScalarType type);

// `t` read at every index of `sizes`, to which it broadcasts. A tensor whose dimensions do not merge into few enough is
// replaced by its contiguous copy.
Input describe(at::Tensor& t, at::IntArrayRef sizes);

// How many blocks a row of `event` elements is summed in.
inline int64_t blocks_of(int64_t event) { return (event + kBlock - 1) / kBlock; }

}  // namespace aevb
