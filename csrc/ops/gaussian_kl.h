#pragma once
#include "ops/common/autograd.h"

namespace aevb {

// The KL's backward as differentiable ATen operations; saved: mu, logvar, prior mu, prior logvar (or undefined).
variable_list differentiable_kl_backward(const at::Tensor& cotangent, const variable_list& saved,
                                         const std::string& spread, const std::string& reduction, int64_t batch_dims,
                                         at::ArrayRef<bool> wanted);

}  // namespace aevb
