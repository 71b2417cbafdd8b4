// Log-likelihoods of counts: Poisson, negative binomial, and its zero-inflated form.
//
// Loader's saddle-point form: with the gamma functions' leading terms moved into the deviance of x from its mean, every
// term of log p has the same sign, so that nothing cancels in any regime. Fractional x are the continuous extension;
// a negative x gives NaN.
//
// value_and_gradient shares what both need, and computes the derivative by x, which takes as long as all else, only
// where it is wanted: data seldom has a gradient. What is added to a product is added to a rounded one, or by fma: a
// value has the same bits with gradients and without.
#pragma once
#include "formulas/log_gamma.h"
#include "formulas/spread.h"

namespace aevb::AEVB_ISA {

// x where it is at least 0, otherwise NaN.
template <class N>
AEVB_INLINE N not_negative(N x) {
  return select(abs(x) == x, x, N(__builtin_nan("")));
}

// log r of any r = 1 + t.
template <class N>
AEVB_INLINE N log_of_any(N t, N r) {
  return select(abs(t) < N(0.5), log1p_of_near(t), log(r));
}

// digamma(z) - log z for z > 0. One step of the recurrence leads to arguments above 1.
template <class N>
AEVB_INLINE N digamma_minus_log(N z) {
  const auto below = z < N(1);
  const N inverse = N(1) / z, above = N(1) / select(below, z + N(1), z);
  const N rest = fma(N(-0.5), above, -digamma_rest_of_inverse(above));
  return select(below, rest - (inverse - log((N(1) + z) * inverse)), rest);
}

// digamma(x + 1) = log z + rest for x >= 0, where z is x + 1 below 1, and otherwise x, which may be too large to count
// on.
template <class N>
struct DigammaOfNext {
  N z, rest;

  AEVB_INLINE explicit DigammaOfNext(N x) {
    const auto below = x < N(1);
    z = select(below, x + N(1), x);
    const N inverse = N(1) / z;
    rest = fma(select(below, N(-0.5), N(0.5)), inverse, -digamma_rest_of_inverse(inverse));
  }
};

// T(x) = x log x - x - lgamma(x + 1) <= 0, given 1 / x and log x. For x >= 1 it is -log(2 pi x) / 2 - S(x).
template <class N>
AEVB_INLINE N count_term(N x, N inverse, N log_x) {
  constexpr double half_log_2pi = 0.91893853320467274178;
  const N term = fma(N(-0.5), log_x, N(-half_log_2pi)) - stirling_of_inverse(inverse);
  const auto fraction = x < N(1);
  if (!N::any(fraction & (x > N(0)))) return term;
  const N z = x + N(1), log_z = log(z);
  const N of_fraction = fma(x, log_x - log_z, fma(N(-0.5), log_z, N(1 - half_log_2pi))) - stirling_of_inverse(N(1) / z);
  return select(fraction, of_fraction, term);
}

//   T(x) + W(x + theta) - W(theta),  W(z) = lgamma(z) - z log z + z
// and its derivative by theta, of which nothing cancels: T <= 0, W falls, and W' = digamma - log rises. From a z below
// 1 a step leads to one above it,
//   W(z) = W(z + 1) - 1 - (z + 1) log(z / (z + 1)),  W'(z) = W'(z + 1) - 1 / z - log(z / (z + 1)).
template <class N>
struct DispersedCountTerm {
  N value, dtheta;

  AEVB_INLINE DispersedCountTerm(N x, N inverse, N theta) {
    const Step of_theta(theta);
    const N sum = x + theta, i_sum = ratio(N(1), sum);
    value = combined(x, inverse, of_theta, sum, i_sum) + of_theta.value;
    dtheta = difference(x - of_theta.one, of_theta, i_sum) + of_theta.slope;
    const auto fraction = x < N(1);
    if (N::any(fraction & (x > N(0)))) {
      const N z = x + N(1);
      const Step of_sum(sum);
      const N step = fma(x, log(x / z), N(1)) + of_theta.value - of_sum.value;
      value = select(fraction, combined(z, N(1) / z, of_theta, of_sum.z, of_sum.inverse) + step, value);
      const N slope = difference((x - of_theta.one) + of_sum.one, of_theta, of_sum.inverse);
      dtheta = select(fraction, slope + (of_theta.slope - of_sum.slope), dtheta);
    }
  }

 private:
  struct Step {
    N one, z, inverse, value, slope;  // z = theta + one

    AEVB_INLINE explicit Step(N theta) {
      const auto below = theta < N(1);
      one = select(below, N(1), N(0));
      z = theta + one;
      inverse = ratio(N(1), z);
      const N logarithm = log_of_normal(theta * inverse);
      value = select(below, fma(z, logarithm, N(1)), N(0));
      slope = select(below, ratio(N(1), theta) + logarithm, N(0));
    }
  };
  static AEVB_INLINE N combined(N x, N inverse, const Step& of_theta, N sum, N i_sum) {
    constexpr double two_pi = 6.283185307179586477;
    return fma(N(-0.5), log_of_normal(N(two_pi) * x * (sum * of_theta.inverse)), -stirling_of_inverse(inverse)) +
           (stirling_of_inverse(i_sum) - stirling_of_inverse(of_theta.inverse));
  }
  static AEVB_INLINE N difference(N apart, const Step& of_theta, N i_sum) {
    return fma(N(0.5) * apart, of_theta.inverse * i_sum,
               digamma_rest_of_inverse(of_theta.inverse) - digamma_rest_of_inverse(i_sum));
  }
};

// log p(x | r) = x log r - r - lgamma(x + 1) = T(x) - x (t - log(1 + t)),  t = (r - x) / x,  r = rate
// The spread says what the operand is: `var` the rate, `logvar` its logarithm.
struct Poisson {
  static constexpr int arity = 2;  // x, rate or log rate
  double x_scale;
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N x, N s) const {
    x = not_negative(rounded_product(x, N(x_scale)));
    const N r = rate(s);
    // All else is nothing beside a very large rate.
    const auto counted = (x > N(0)) & (r < N(1e30));
    N value = x * N(0) - r;
    if (N::any(counted)) {
      const N inverse = N(1) / x, log_x = log_of_normal(x), distance = rounded_product(r - x, inverse);
      N excess = LogNearOne<N>(distance, r * inverse).excess;
      const auto tiny = r < N(0x1p-60);
      if (N::any(tiny)) excess = select(tiny, distance - ((of_log() ? s : log(r)) - log_x), excess);
      value = select(counted, fma(-x, excess, count_term(x, inverse, log_x)), value);
    }
    return value;
  }

  template <class N>
  AEVB_INLINE void gradient(N x, N s, N& dx, N& ds) const {
    x = not_negative(rounded_product(x, N(x_scale)));
    const N r = rate(s);
    if (of_log()) {
      ds = x - r;
    } else {
      const N relative = select(r > N(1e30), x / r - N(1), (x - r) / r);
      ds = select(x == N(0), select(r == r, N(-1), r), relative);
    }
    const DigammaOfNext<N> next(x);
    const N inverse = N(1) / next.z;
    N log_ratio = log_of_any((r - next.z) * inverse, r * inverse);
    if (of_log()) log_ratio = select(abs(s) > N(60), s - log(next.z), log_ratio);
    dx = (log_ratio - next.rest) * N(x_scale);
  }

 private:
  AEVB_INLINE bool of_log() const { return spread.kind == Spread::logvar; }
  template <class N>
  AEVB_INLINE N rate(N s) const {
    return of_log() ? exp(s) : not_negative(s);
  }
};

// theta where it is positive and the others are at least 0, otherwise NaN. Within 2^-60 and 2^96: beyond the latter the
// negative binomial is a Poisson distribution to all digits.
template <class N>
AEVB_INLINE N valid_dispersion(N x, N other, N theta) {
  const auto valid = (abs(x) == x) & (abs(other) == other) & (theta > N(0));
  const N bounded = select(theta > N(0x1p96), N(0x1p96), select(theta < N(0x1p-60), N(0x1p-60), theta));
  return select(valid, bounded, N(__builtin_nan("")));
}

// log p(x | m, theta), m = mean, theta = dispersion: the variance is m + m^2 / theta. With v = (x - m) / (m + theta)
// and u = -theta v / x
//   log p = T(x) + W(x + theta) - W(theta) - theta (v - log(1 + v)) - x (u - log(1 + u))
struct NegativeBinomial {
  static constexpr int arity = 3;  // x, mean, dispersion
  double x_scale;

  template <class N>
  AEVB_INLINE N value(N x, N mean, N theta) const {
    return Parts<N>(rounded_product(x, N(x_scale)), mean, theta).value;
  }

  template <class N>
  AEVB_INLINE void value_and_gradient(bool of_x, N& value, N x, N mean, N theta, N& dx, N& dmean, N& dtheta) const {
    const Parts<N> of(rounded_product(x, N(x_scale)), mean, theta);
    value = of.value;
    dmean = of.dmean;
    dtheta = of.dtheta;
    dx = N(0);
    if (of_x) dx = of.dx() * N(x_scale);
  }

  template <class N>
  struct Parts {
    N value, dmean, dtheta;
    N x, mean, theta, inverse;

    AEVB_INLINE Parts(N given_x, N given_mean, N given_theta) : x(given_x) {
      theta = valid_dispersion(x, given_mean, given_theta);
      mean = select(given_mean > N(0x1p64), N(0x1p64), given_mean);
      inverse = ratio(N(1), mean + theta);
      const N failure = theta * inverse, distance = x - mean, odds = (x + theta) * inverse;
      const LogNearOne<N> v(rounded_product(distance, inverse), odds);
      value = rounded_product(theta, v.logarithm);
      dmean = -failure;
      dtheta = -v.excess;
      const auto counted = x > N(0);
      if (N::any(counted)) {
        const N inverse_x = ratio(N(1), x);
        const N shift = rounded_product(-failure * distance, inverse_x);
        N excess = LogNearOne<N>(shift, odds * (mean * inverse_x)).excess;
        const auto tiny = mean < N(0x1p-60);
        if (N::any(tiny)) excess = select(tiny, shift - (log(mean) - log(x) + log(odds)), excess);
        const DispersedCountTerm<N> term(x, inverse_x, theta);
        value = select(counted, fma(-theta, v.excess, fma(-x, excess, term.value)), value);
        dmean = select(counted, failure * (distance / mean), dmean);
        dtheta = select(counted, term.dtheta - v.excess, dtheta);
      }
    }

    AEVB_INLINE N dx() const {
      const DigammaOfNext<N> next(x);
      const N share = inverse / next.z, above = fma(theta, mean - next.z, -mean * (next.z - x));
      const N logarithm = log_of_any(above * share, mean * ((x + theta) * share));
      return digamma_minus_log(x + theta) - next.rest + logarithm;
    }
  };
};

// The same of torch.distributions: r = total_count, m = r e^l, l = logits.
struct NegativeBinomialOfLogits {
  static constexpr int arity = 3;  // x, logits, total_count
  double x_scale;

  template <class N>
  AEVB_INLINE N value(N x, N logits, N total) const {
    return Parts<N>(rounded_product(x, N(x_scale)), logits, total).value;
  }

  template <class N>
  AEVB_INLINE void value_and_gradient(bool of_x, N& value, N x, N logits, N total, N& dx, N& dlogits, N& dtotal) const {
    const Parts<N> of(rounded_product(x, N(x_scale)), logits, total);
    value = of.value;
    dlogits = of.dlogits;
    dtotal = of.dtotal;
    dx = N(0);
    if (of_x) dx = of.dx() * N(x_scale);
  }

 private:
  template <class N>
  struct Parts {
    N value, dlogits, dtotal;
    N x, theta, success, distance, under;

    AEVB_INLINE Parts(N given_x, N l, N total) : x(given_x) {
      const auto none = total == N(0);
      theta = valid_dispersion(x, x, select(none, N(1), total));
      const auto positive = l > N(0);
      const N e = exp_of_minus_abs(l), whole = ratio(N(1), N(1) + e);
      distance = select(positive, fma(x, e, -theta), fma(-theta, e, x)) * whole;  // x (1 - sigmoid) - theta sigmoid
      // Where e^-|l| leaves the normal numbers, what is beyond e^-85 is added to the logarithms.
      const auto far = abs(l) > N(85);
      const N smaller = select(far, N(1.2160992992528256e-37), e) * whole, beyond = select(far, N(85) - abs(l), N(0));
      success = select(positive, whole, smaller);
      const N failure = select(positive, smaller, whole), over = select(positive, beyond, N(0));
      under = select(positive, N(0), beyond);
      const N inverse_theta = ratio(N(1), theta);
      const LogNearOne<N> v(rounded_product(distance, inverse_theta), (x + theta) * inverse_theta * failure);
      const N log_v = v.logarithm + over;
      value = theta * log_v;
      dtotal = log_v;
      dlogits = select(none, x * failure, distance);
      const auto counted = x > N(0);
      if (N::any(counted)) {
        const N inverse_x = ratio(N(1), x);
        const LogNearOne<N> u(rounded_product(-distance, inverse_x), (x + theta) * inverse_x * success);
        const DispersedCountTerm<N> term(x, inverse_x, theta);
        const N deviance = fma(theta, v.excess - over, x * (u.excess - under));
        value = select(counted, term.value - deviance, value);
        dtotal = select(counted, term.dtheta + log_v, dtotal);
      }
      value = select(none, select(counted, N(-__builtin_inf()), select(l == l, N(0), l)), value);
      dtotal = select(none & counted, N(__builtin_inf()), dtotal);
    }

    AEVB_INLINE N dx() const {
      const DigammaOfNext<N> next(x);
      const N inverse_z = N(1) / next.z;
      const N logarithm = log_of_any(-(distance + (next.z - x)) * inverse_z, (x + theta) * inverse_z * success);
      return digamma_minus_log(x + theta) - next.rest + (logarithm + under);
    }
  };
};

// A zero with probability pi = sigmoid(g), g = gate_logits, and otherwise a negative binomial:
//   log p(0) = log(pi + (1 - pi) e^n),  n = log NB(0);   log p(x > 0) = log(1 - pi) + log NB(x)
struct ZeroInflatedNegativeBinomial {
  static constexpr int arity = 4;  // x, mean, dispersion, gate_logits
  double x_scale;

  template <class N>
  AEVB_INLINE N value(N x, N mean, N theta, N g) const {
    return Parts<N>(rounded_product(x, N(x_scale)), mean, theta, g).value;
  }

  template <class N>
  AEVB_INLINE void value_and_gradient(bool of_x, N& value, N x, N mean, N theta, N g, N& dx, N& dmean, N& dtheta,
                                      N& dg) const {
    const Parts<N> of(rounded_product(x, N(x_scale)), mean, theta, g);
    value = of.value;
    dmean = of.dmean;
    dtheta = of.dtheta;
    dg = of.dg;
    dx = N(0);
    if (of_x) dx = of.dx() * N(x_scale);
  }

 private:
  template <class N>
  struct Parts {
    N value, dmean, dtheta, dg;
    NegativeBinomial::Parts<N> nb;
    decltype(N() == N()) zero;

    AEVB_INLINE Parts(N x, N mean, N theta, N g) : nb(x, mean, theta), zero(x == N(0)) {
      const auto counted = x > N(0), positive = g > N(0);
      const N e = exp_of_minus_abs(g), whole = ratio(N(1), N(1) + e);
      const N closed = select(positive, whole, e * whole), open = select(positive, e * whole, whole);  // pi, 1 - pi
      const N n = select(counted, N(0), nb.value);
      const N lost = expm1_of_negative(n);
      const N gap = exp_of_minus_abs(g - n), part = ratio(N(1), N(1) + gap);
      const auto gated = g > n;
      const N structural = select(gated, part, gap * part), sampled = select(gated, gap * part, part);
      // Below log 1/2 by the larger one of the two terms.
      const N y = rounded_product(open, lost);
      const auto near = y > N(-0.5);
      const N argument = select(counted, e, select(near, y, rounded_product(gap - e, whole)));
      const N l = log1p_of_near(argument);
      const N larger = select(gated, g, n), base = select(near, N(0), larger);
      value = select(counted, nb.value - select(positive, g, N(0)) - l, base + l);
      dg = select(counted, -closed, -open * structural * lost);
      const N share = select(counted, N(1), sampled);
      dmean = share * nb.dmean;
      dtheta = share * nb.dtheta;
    }

    // A zero is of two kinds, and not the limit of small x.
    AEVB_INLINE N dx() const { return select(zero, N(0), nb.dx()); }
  };
};

}  // namespace aevb::AEVB_ISA
