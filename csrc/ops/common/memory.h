// Memory for results.
#pragma once
#include <ATen/core/Tensor.h>

namespace aevb {

// An uninitialised tensor, like at::empty. On the CPU large ones reuse the memory of earlier results: the C library
// returns large blocks to the system at once, and mapping and zeroing them again, page by page, costs several times as
// much as the kernels.
at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options);
at::Tensor empty_strided(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, const at::TensorOptions& options);

}  // namespace aevb
