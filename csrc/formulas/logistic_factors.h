// The probability of a bin under a logistic distribution, sigmoid(a) - sigmoid(b) of its scaled edges a and b.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// With u = |x - mu| / scale, h = half the bin's width / scale, E = e^-u and g = e^-h it is
//   sigmoid(u + h) - sigmoid(u - h) = E (1 - g^2) / ((g + E) (1 + g E)),
// in which nothing cancels, however narrow the bin is, and which takes two exponentials. A bin that has no edge on one
// side has sigmoid(u + h) = 1 / (1 + g E), or sigmoid(h - u) = E / (g + E) if mu lies beyond its one edge. The
// logarithm is  exponent + log(numerator / denominator).  The quotient is a number of moderate size: several of them
// can be multiplied before one logarithm is taken.
template <class N>
struct LogisticFactors {
  using Mask = decltype(N(0) < N(0));
  N exponent, numerator, denominator;

  LogisticFactors() = default;
  // `distance` is x - mu, `inverse_scale` e^-log_scale. `no_lower` and `no_upper`: whether the bin has no such edge.
  AEVB_INLINE LogisticFactors(N distance, N log_scale, N inverse_scale, N half_width, Mask no_lower, Mask no_upper)
      : u_(abs(distance) * inverse_scale), h_(half_width * inverse_scale) {
    const N zero(0), one(1);
    const Mask negative = distance < zero, others = (distance > zero) | (distance == zero);
    by_distance_ = select(negative, -inverse_scale, inverse_scale);
    // For a large scale the probability is proportional to 1 / scale, which may underflow: that is left to `exponent`.
    h_of_width_ = half_width * select(inverse_scale < N(kFlat), N(kFlat), inverse_scale);
    N rest;
    exp_of_minus(u_, E_, far_);
    exp_of_minus(h_of_width_, g_, rest);
    const N sum = g_ + E_, product = fma(g_, E_, one);
    open_ = no_lower | no_upper;
    beyond_ = (no_lower & negative) | (no_upper & others);
    numerator = select(open_, one, rest * (N(2) - rest));
    denominator = select(open_, select(beyond_, sum, product), sum * product);
    const N flat = select(log_scale > N(kLogFlat), N(kLogFlat) - log_scale, zero);
    exponent = select(open_, select(beyond_, -u_, zero), flat - u_);
  }

  // The derivatives of the logarithm by mu and by log_scale, given 1 / (numerator * denominator).
  AEVB_INLINE void gradient(N inverse, N& by_mu, N& by_log_scale) const {
    const N one(1), two(2), gE = g_ * E_, of_denominator = inverse * numerator;
    const N by_u = select(open_, select(beyond_, -g_, gE), -(g_ * far_) * (one + E_)) * of_denominator;
    const N by_h = select(open_, select(beyond_, g_, gE), g_ * fma(E_, E_, fma(two, gE, one))) * of_denominator;
    const N narrowing = select(open_, N(0), two * h_of_width_ * (g_ * g_) * (inverse * denominator));
    by_mu = -by_distance_ * by_u;
    by_log_scale = -(product(by_u, u_) + fma(h_, by_h, narrowing));
  }

 private:
  // Of a narrower bin 1 - g^2 is 2 h to the last digit.
  static constexpr double kFlat = N::digits > 24 ? 0x1p-46 : 0x1p-17;
  static constexpr double kLogFlat = (N::digits > 24 ? 46 : 17) * 0.69314718055994530942;

  N u_, h_, by_distance_, h_of_width_, E_, far_, g_;
  Mask open_, beyond_;
};

}  // namespace aevb::AEVB_ISA
