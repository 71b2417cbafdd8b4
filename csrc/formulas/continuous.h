// The decoders of continuous data beside the Gaussian: Laplace, and the continuous Bernoulli (Loaiza-Ganem & Cunningham
// 2019).
#pragma once
#include "formulas/spread.h"

namespace aevb::AEVB_ISA {

// log p(x | mu, b) = -log 2b - |x - mu| / b. If b is 0, it is infinite at mu and -infinite elsewhere.
struct Laplace {
  static constexpr int arity = 3;  // x, mu, spread
  static constexpr double log_2 = 0.69314718055994530942;
  double x_scale;
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N x, N mu, N s) const {
    N t = symmetric_product(abs(fma(x, N(x_scale), -mu)), spread.inverse_std(s));
    N log_width = fma(N(0.5), spread.logvar(s), N(log_2));
    return -select(t == N(__builtin_inf()), t, t + log_width);
  }

  // At mu the gradient by mu is 0, the middle of the subgradients.
  template <class N>
  AEVB_INLINE void gradient(N x, N mu, N s, N& dx, N& dmu, N& ds) const {
    N difference = fma(x, N(x_scale), -mu), inverse = spread.inverse_std(s);
    N sign = select(difference > N(0), N(1), select(difference < N(0), N(-1), difference));
    dmu = symmetric_product(sign, inverse);
    dx = -dmu * N(x_scale);
    ds = spread.times_slope(fma(N(0.5), symmetric_product(abs(difference), inverse), N(-0.5)), s);
  }
};

// log p(x | l) = x l - log((e^l - 1) / l), l = logits, x in [0, 1]
struct ContinuousBernoulli {
  static constexpr int arity = 2;  // x, logits
  double x_scale;

  // Near l = 0 it is a parabola, (x - 1/2) l - S(l) with S(l) = log(sinh(l / 2) / (l / 2)) = l^2 / 24 - ..., and beyond
  // the Bernoulli's (x - [l > 0]) l plus log(|l| / (1 - e^-|l|)). An infinite l is the limit: all mass at 0 or 1.
  template <class N>
  AEVB_INLINE N value(N x, N l) const {
    N square = l * l;
    N near = fma(middle(x), l, -square * series<N, true>(square));
    N linear = product(residual(x, l), l);
    N log_normaliser = log(abs(l) / (N(1) - exp_of_minus_abs(l)));
    N far = select(linear == N(-__builtin_inf()), linear, linear + log_normaliser);
    return select(abs(l) < N(limit), near, far);
  }

  // d log p / dl = (x - 1/2) - S'(l), beyond: (x - [l > 0]) +- (1 / |l| - e^-|l| / (1 - e^-|l|))
  template <class N>
  AEVB_INLINE void gradient(N x, N l, N& dx, N& dl) const {
    N near = fma(-l, series<N, false>(l * l), middle(x));
    N e = exp_of_minus_abs(l), tail = N(1) / abs(l) - ratio(e, N(1) - e);
    N far = residual(x, l) + select(l > N(0), tail, -tail);
    dl = select(abs(l) < N(limit), near, far);
    dx = l * N(x_scale);
  }

 private:
  static constexpr double limit = 2;

  template <class N>
  AEVB_INLINE N middle(N x) const {
    return fma(x, N(x_scale), N(-0.5));
  }
  template <class N>
  AEVB_INLINE N residual(N x, N l) const {
    return fma(x, N(x_scale), select(l > N(0), N(-1), N(0)));
  }

  // S(l) / l^2 or S'(l) / l as a function of l^2 < 4: minimax (errors of 2e-9 and 1e-8), and in float64 the series,
  // whose coefficients are B_2k / (2k)! over 2k, and these.
  template <class N, bool of_value>
  static AEVB_INLINE N series(N square) {
    if constexpr (N::digits > 24) {
      constexpr Bernoulli2k<of_value> c;
      return polynomial(square, c.over_factorials);
    } else if constexpr (of_value) {
      constexpr double c[] = {0.041666666597, -0.000347221342199, 5.50967690645e-06, -1.02058328925e-07,
                              1.70365058396e-09};
      return polynomial(square, c);
    } else {
      constexpr double c[] = {0.083333332519, -0.00138887862659, 3.30479563708e-05, -8.11753625223e-07,
                              1.63635039049e-08};
      return polynomial(square, c);
    }
  }
  template <bool divided>
  struct Bernoulli2k {
    double over_factorials[18] = {0.083333333333333333,    -0.0013888888888888889,  3.3068783068783069e-5,
                                  -8.2671957671957672e-7,  2.0876756987868099e-8,   -5.2841901386874932e-10,
                                  1.3382536530684679e-11,  -3.3896802963225829e-13, 8.5860620562778446e-15,
                                  -2.1748686985580619e-16, 5.5090028283602295e-18,  -1.3954464685812523e-19,
                                  3.5347070396294675e-21,  -8.9535174270375469e-23, 2.2679524523376831e-24,
                                  -5.7447906688722024e-26, 1.4551724756148649e-27,  -3.6859949406653102e-29};
    constexpr Bernoulli2k() {
      if (divided)
        for (int k = 0; k < 18; ++k) over_factorials[k] /= 2 * k + 2;
    }
  };
};

}  // namespace aevb::AEVB_ISA
