// Operators under autocast. There, operands may have the dtypes of different layers: a mean in half precision, a spread
// computed in float32. The operands of a call are promoted to their widest dtype, as PyTorch does for its operators
// with several operands; outside autocast, dtypes that differ stay an error. The kernels here are only called while
// autocast is on.
#pragma once
#include <c10/core/ScalarType.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <array>

#include "ops/common/check.h"

namespace aevb {

// `t` in a wider dtype, like `to`, but with a gradient that is clamped to t's dtype (ops/widened.cpp).
at::Tensor widened(const at::Tensor& t, at::ScalarType dtype);

struct WithoutAutocast : c10::impl::ExcludeDispatchKeyGuard {
  WithoutAutocast() : ExcludeDispatchKeyGuard(c10::autocast_dispatch_keyset) {}
};

// Tensors may be undefined. If one has an unsupported dtype, all are returned unchanged: the operators' checks follow.
template <class... Tensors>
std::array<at::Tensor, sizeof...(Tensors)> promoted(const Tensors&... tensors) {
  std::array<at::Tensor, sizeof...(Tensors)> all = {tensors...};
  auto widest = at::ScalarType::Undefined;
  for (const at::Tensor& t : all) {
    if (!t.defined()) continue;
    if (!is_floating(t.scalar_type())) return all;
    widest = widest == at::ScalarType::Undefined ? t.scalar_type() : c10::promoteTypes(widest, t.scalar_type());
  }
  for (at::Tensor& t : all)
    if (t.defined()) t = widened(t, widest);
  return all;
}

#define AEVB_AUTOCAST(name, function)                                                \
  TORCH_LIBRARY_IMPL(aevb_ext, AutocastCPU, m) { m.impl(name, TORCH_FN(function)); } \
  TORCH_LIBRARY_IMPL(aevb_ext, AutocastCUDA, m) { m.impl(name, TORCH_FN(function)); }

}  // namespace aevb
