// Where results are put.
#pragma once
#include <ATen/core/Tensor.h>

namespace aevb {

// An uninitialised tensor, as at::empty makes it. On the CPU large ones come from memory that earlier results have
// left: the C library gives large blocks back to the system at once, and to have them mapped and zeroed again, page by
// page, costs several times what the kernels do.
at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options);

}  // namespace aevb
