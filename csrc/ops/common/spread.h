// Spreads as differentiable ATen operations, for double backward; formulas/spread.h has those of the kernels.
#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "call.h"

namespace aevb {

inline at::Tensor logvar_of(const at::Tensor& s, Spread spread) {
  switch (spread) {
    case Spread::log_std: return 2 * s;
    case Spread::std: return 2 * s.log();
    case Spread::var: return s.log();
    default: return s;
  }
}

// t times d logvar / ds
inline at::Tensor times_slope(const at::Tensor& t, const at::Tensor& s, Spread spread) {
  switch (spread) {
    case Spread::log_std: return 2 * t;
    case Spread::std: return 2 * t / s;
    case Spread::var: return t / s;
    default: return t;
  }
}

// a b, where a == 0 means "this term is absent", as in the kernels: no NaN from 0 * infinity.
inline at::Tensor product(const at::Tensor& a, const at::Tensor& b) { return (a * b).masked_fill(a == 0, 0); }

}  // namespace aevb
