// A tensor in a wider dtype, as `to` gives it, whose gradient comes back bounded: beyond the tensor's own largest
// number it is that number (`narrowed`), where `to` would make it infinite.
#pragma once
#include <ATen/core/Tensor.h>

namespace aevb {

at::Tensor widened(const at::Tensor& t, at::ScalarType dtype);

}  // namespace aevb
