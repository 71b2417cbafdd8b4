// log p(x | l) = x l - log(1 + e^l): the Bernoulli decoder (Kingma & Welling 2014, appendix C.1), l = logits.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

struct Bernoulli {
  static constexpr int arity = 2;  // x, logits
  double x_scale;

  // With [l > 0] split off, both terms are small where the result is, and nothing overflows:
  //   log p = (x - [l > 0]) l - log(1 + e^-|l|)
  template <class N>
  AEVB_INLINE N value(N x, N l) const {
    return minus_log1p(product(residual(x, l), l), exp(-abs(l)));
  }

  // d log p / dl = x - sigmoid(l) = (x - [l > 0]) +- sigmoid(-|l|)
  template <class N>
  AEVB_INLINE void gradient(N x, N l, N& dx, N& dl) const {
    N e = exp(-abs(l));
    N tail = e / (N(1) + e);
    dl = residual(x, l) + select(l > N(0), tail, -tail);
    dx = l * N(x_scale);
  }

 private:
  template <class N>
  AEVB_INLINE N residual(N x, N l) const {
    return fma(x, N(x_scale), select(l > N(0), N(-1), N(0)));
  }
};

}  // namespace aevb::AEVB_ISA
