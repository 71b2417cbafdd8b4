// The Bernoulli decoder (Kingma & Welling 2014, appendix C.1), of logits or of probabilities.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// log p(x | l) = x l - log(1 + e^l), l = logits
struct Bernoulli {
  static constexpr int arity = 2;  // x, logits
  double x_scale;

  // With [l > 0] split off, both terms are small where the result is, and nothing overflows:
  //   log p = (x - [l > 0]) l - log(1 + e^-|l|)
  template <class N>
  AEVB_INLINE N value(N x, N l) const {
    return minus_log1p(product(residual(x, l), l), exp_of_minus_abs(l));
  }

  // d log p / dl = x - sigmoid(l) = (x - [l > 0]) +- sigmoid(-|l|)
  template <class N>
  AEVB_INLINE void gradient(N x, N l, N& dx, N& dl) const {
    N e = exp_of_minus_abs(l);
    N tail = ratio(e, N(1) + e);
    dl = residual(x, l) + select(l > N(0), tail, -tail);
    dx = l * N(x_scale);
  }

 private:
  template <class N>
  AEVB_INLINE N residual(N x, N l) const {
    return fma(x, N(x_scale), select(l > N(0), N(-1), N(0)));
  }
};

// log p(x | p) = x log p + (1 - x) log(1 - p), p = probabilities. As in torch.nn.functional.binary_cross_entropy, a
// logarithm is at least -100 in the value, and a variance at least 1e-12 in the gradient. If p is outside [0, 1], the
// result is NaN: the logarithm of a negative number.
struct BernoulliOfProbs {
  static constexpr int arity = 2;  // x, probs
  double x_scale;

  template <class N>
  AEVB_INLINE N value(N x, N p) const {
    const Parts<N> of(p);
    N t = target(x), rest = N(1) - t;
    return fma(select(of.swapped, rest, t), of.log_smaller, select(of.swapped, t, rest) * of.log_larger);
  }

  template <class N>
  AEVB_INLINE void gradient(N x, N p, N& dx, N& dp) const {
    N variance = p * (N(1) - p);
    N least = select(variance < N(0), N(__builtin_nan("")), N(1e-12));
    dp = ratio(target(x) - p, select(variance < N(1e-12), least, variance));
    const Parts<N> of(p);
    N log_odds = of.log_smaller - of.log_larger;
    dx = select(of.swapped, -log_odds, log_odds) * N(x_scale);
  }

 private:
  // The smaller and the larger one of p and 1 - p, which is exact where it is the smaller. The logarithm of the larger
  // follows from the smaller without cancellation.
  template <class N>
  struct Parts {
    decltype(N() > N()) swapped;  // p is the larger
    N log_smaller, log_larger;

    AEVB_INLINE explicit Parts(N p) {
      N rest = N(1) - p;
      swapped = p > rest;
      N smaller = select(swapped, rest, p);
      log_smaller = bounded(log_of_smaller_part(smaller));
      log_larger = log_of_larger_part(smaller);
    }
  };
  // A byte of 255 must be exactly 1: at p = 1 the gradient divides the difference of target and p by 1e-12.
  template <class N>
  AEVB_INLINE N target(N x) const {
    return rounded_product(x, N(x_scale));
  }
  template <class N>
  static AEVB_INLINE N bounded(N logarithm) {
    return select(logarithm < N(-100), N(-100), logarithm);
  }
};

}  // namespace aevb::AEVB_ISA
