// The logistic distribution over the 256 levels of a byte (Kingma et al. 2016, Salimans et al. 2017).
#pragma once
#include "formulas/spread.h"

namespace aevb::AEVB_ISA {

// The mass that a logistic distribution of mu and scale s has in the bin of width 1/255 around level / 255. The first
// and the last bin reach to infinity.
//
// By the distribution's symmetry the bin lies above mu. Its edges are at n < f, in units of s. With d = f - n,
//   P = sigmoid(-n) sigmoid(f) (1 - e^-d),
// a product of three factors that neither cancel nor underflow but for e^-n. With p = e^-|n| and q = e^-f it is
// e^-max(n, 0) (1 - e^-d) / ((1 + p) (1 + q)).
template <class N>
struct LogisticBin {
  N n, f, width, twice_centre;                          // n + f = twice_centre
  N p, q, one_minus_e_width, one_minus_e_twice_centre;  // e^-d, e^-(n + f)
  N e_width, inverse;                                   // 1 / ((1 + p) (1 + q))
  N sign, inverse_std;
  decltype(N() > N()) inside;  // mu is in the bin

  // `levels` is x in units of a bin, and rounded to a level: what rounding did to x, or bfloat16, is undone.
  AEVB_INLINE LogisticBin(N levels, N mu, N given_inverse_std) {
    inverse_std = select(given_inverse_std < N(0), N(__builtin_nan("")), given_inverse_std);
    N level = rounded(levels);
    auto first = level<N(0.5), last = level> N(254.5), open = first | last;
    level = select(first, N(0), select(last, N(255), level));
    auto above = last | ((fma(mu, N(-255), level) > N(0)) & (level > N(0.5)));
    sign = select(above, N(1), N(-1));
    N slope = N(-255) * sign, centre = level * sign;
    width = inverse_std * N(1.0 / 255);
    n = symmetric_product(fma(mu, slope, centre - N(0.5)), width);
    f = symmetric_product(fma(mu, slope, centre + N(0.5)), width);
    twice_centre = N(2) * symmetric_product(fma(mu, slope, centre), width);
    inside = n < N(0);
    // e^-d and e^-(n + f): the larger by an exponential, and the smaller by q = p times it.
    p = exp_of_minus_abs(n);
    N larger = select(open, N(0), exp_of_minus_abs(select(inside, twice_centre, width)));
    q = p * larger;
    N smaller = p * q;
    e_width = select(inside, smaller, larger);
    one_minus_e_width = select(open, N(1), -Exponential<N>(-width, e_width).expm1);
    one_minus_e_twice_centre =
        select(open, N(1), -Exponential<N>(-twice_centre, select(inside, larger, smaller)).expm1);
    inverse = ratio(N(1), (N(1) + p) * (N(1) + q));
  }

  AEVB_INLINE N log_probability() const {
    N part = one_minus_e_width * inverse, rest = (e_width + p + fma(p, q, q)) * inverse;
    N logarithm = select(part > rest, log_of_larger_part(rest), log_of_smaller_part(part));
    return logarithm - select(n > N(0), n, N(0));
  }

  // d log P / d mu = +- (sigmoid(n) - sigmoid(-f)) / s
  AEVB_INLINE N by_mu() const {
    N top = select(inside, p, N(1));
    return symmetric_product(sign * top * one_minus_e_twice_centre * inverse, inverse_std);
  }

  // d log P / d log s = n sigmoid(n) - f sigmoid(-f) - d / (e^d - 1)
  AEVB_INLINE N by_log_std() const {
    N of_n = product(select(inside, p, N(1)) * (N(1) + q) * inverse, n);
    N of_f = product(q * (N(1) + p) * inverse, f);
    N of_width = product(e_width, select(width == N(0), N(1), width / one_minus_e_width));
    return of_n - of_f - of_width;
  }

 private:
  static AEVB_INLINE N rounded(N a) {
    constexpr double rounder = 1.5 * (N::digits > 24 ? 0x1p52 : 0x1p23);
    return (a + N(rounder)) - N(rounder);
  }
};

// log P(x | mu, s) of data x in [0, 1]
struct DiscretizedLogistic {
  static constexpr int arity = 3;  // x, mu, spread
  double x_scale;
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N x, N mu, N s) const {
    return bin(x, mu, s).log_probability();
  }

  // Within a bin the mass does not depend on x.
  template <class N>
  AEVB_INLINE void gradient(N x, N mu, N s, N& dx, N& dmu, N& ds) const {
    const LogisticBin<N> of = bin(x, mu, s);
    dmu = of.by_mu();
    N by_log_std = of.by_log_std();
    ds = select(by_log_std == N(0), N(0), spread.times_slope(N(0.5) * by_log_std, s));  // no 0 / 0
    dx = N(0);
  }

 private:
  template <class N>
  AEVB_INLINE LogisticBin<N> bin(N x, N mu, N s) const {
    return {x * N(x_scale) * N(255), mu, spread.inverse_std(s)};
  }
};

}  // namespace aevb::AEVB_ISA
