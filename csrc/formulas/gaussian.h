// Diagonal Gaussians: log-likelihood (Kingma & Welling 2014, appendix C.2), KL divergence (appendix B).
#pragma once
#include "formulas/spread.h"

namespace aevb::AEVB_ISA {

// log p(x | mu, sigma) = -1/2 (log 2 pi + log sigma^2 + t^2),  t = (x - mu) / sigma
struct Gaussian {
  static constexpr int arity = 3;  // x, mu, spread
  static constexpr double log_2pi = 1.8378770664093454836;
  double x_scale;
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N x, N mu, N s) const {
    N t = standardised(x, mu, s);
    return N(-0.5) * fma(t, t, N(log_2pi) + spread.logvar(s));
  }

  template <class N>
  AEVB_INLINE void gradient(N x, N mu, N s, N& dx, N& dmu, N& ds) const {
    N t = standardised(x, mu, s);
    dmu = product(t, spread.inverse_std(s));
    dx = -dmu * N(x_scale);
    ds = spread.times_slope(N(0.5) * fma(t, t, N(-1)), s);
  }

  // The difference is scaled before it is squared: its square may overflow where t does not.
  template <class N>
  AEVB_INLINE N standardised(N x, N mu, N s) const {
    return product(fma(x, N(x_scale), -mu), spread.inverse_std(s));
  }
};

// The same of a mean that a sigmoid squashes to (0, 1), mu = sigmoid(m), and of log sigma^2.
struct GaussianOfSigmoid {
  static constexpr int arity = 3;  // x, m, log sigma^2
  double x_scale;

  template <class N>
  AEVB_INLINE N value(N x, N m, N v) const {
    return gaussian().value(x, Sigmoid<N>(m).value, v);
  }

  template <class N>
  AEVB_INLINE void gradient(N x, N m, N v, N& dx, N& dm, N& dv) const {
    const Sigmoid<N> mu(m);
    gaussian().gradient(x, mu.value, v, dx, dm, dv);
    // If the gradient by mu overflows, 1 / sigma is so large that its product with the slope is a normal number.
    N t = gaussian().standardised(x, mu.value, v), scaled = mu.slope * gaussian().spread.inverse_std(v);
    dm = select(abs(dm) == N(__builtin_inf()), product(scaled, t), product(mu.slope, dm));
  }

 private:
  // Computed from one e^-|m|, so that the slope mu (1 - mu) does not cancel if mu is near 1.
  template <class N>
  struct Sigmoid {
    N value, slope;
    AEVB_INLINE explicit Sigmoid(N m) {
      N e = exp_of_minus_abs(m), larger = N(1) / (N(1) + e), smaller = e * larger;
      value = select(m > N(0), larger, smaller);
      slope = larger * smaller;
    }
  };
  AEVB_INLINE Gaussian gaussian() const { return {x_scale, {Spread::logvar}}; }
};

// KL(N(mu, sigma^2) || N(mu_p, sigma_p^2)) = 1/2 (e^w - 1 - w + q^2),  w = log sigma^2/sigma_p^2,  q = (mu - mu_p) /
// sigma_p
struct GaussianKlPrior {
  static constexpr int arity = 4;  // mu, spread, prior mu, prior spread
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N mu, N s, N prior_mu, N prior_s) const {
    N q = product(mu - prior_mu, spread.inverse_std(prior_s));
    return N(0.5) * fma(q, q, Exponential<N>(spread.logvar_over(s, prior_s)).excess);
  }

  template <class N>
  AEVB_INLINE void gradient(N mu, N s, N prior_mu, N prior_s, N& dmu, N& ds, N& dprior_mu, N& dprior_s) const {
    N precision = spread.inverse_std(prior_s);
    N q = product(mu - prior_mu, precision);
    N expm1 = Exponential<N>(spread.logvar_over(s, prior_s)).expm1;
    dmu = product(q, precision);
    dprior_mu = -dmu;
    ds = spread.times_slope(N(0.5) * expm1, s);
    dprior_s = spread.times_slope(N(0) - N(0.5) * fma(q, q, expm1), prior_s);  // and so never -0
  }
};

// The same to the prior N(0, I), the KL term of eq. 10.
struct GaussianKl {
  static constexpr int arity = 2;  // mu, spread
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N mu, N s) const {
    return value(mu, Exponential<N>(log_variance(s)));
  }

  template <class N>
  AEVB_INLINE void gradient(N mu, N s, N& dmu, N& ds) const {
    gradient(mu, s, Exponential<N>(log_variance(s)), dmu, ds);
  }

  // The same, given sigma^2.
  template <class N>
  AEVB_INLINE N value(N mu, N s, N variance) const {
    return value(mu, Exponential<N>(log_variance(s), variance));
  }

  template <class N>
  AEVB_INLINE void gradient(N mu, N s, N variance, N& dmu, N& ds) const {
    gradient(mu, s, Exponential<N>(log_variance(s), variance), dmu, ds);
  }

 private:
  template <class N>
  AEVB_INLINE N value(N mu, const Exponential<N>& e) const {
    return N(0.5) * fma(mu, mu, e.excess);
  }

  template <class N>
  AEVB_INLINE void gradient(N mu, N s, const Exponential<N>& e, N& dmu, N& ds) const {
    dmu = mu;
    ds = spread.times_slope(N(0.5) * e.expm1, s);
  }

  template <class N>
  AEVB_INLINE N log_variance(N s) const {
    return spread.logvar_over(s, N(spread.unit()));
  }
};

}  // namespace aevb::AEVB_ISA
