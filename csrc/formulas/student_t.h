// Student's t, the decoder that is not moved by outliers.
#pragma once
#include "formulas/spread.h"

namespace aevb::AEVB_ISA {

// H(a) = lgamma(a + 1/2) - lgamma(a) - 1/2 log a at a = df / 2, and its derivative, which are -1/8a and 1/8a^2 where a
// is large: neither is a difference of the functions themselves. H is right to an absolute error, the derivative to a
// relative one.
template <class N>
struct HalfStep {
  N df, inverse;  // 1 / df

  AEVB_INLINE N value() const {
    if constexpr (N::digits > 24) {
      N p(1);
      AEVB_UNROLL
      for (int k = 0; k < steps; ++k) {  // H(a) - H(a + 1) = 1/2 log(a (a + 1) / (a + 1/2)^2)
        N part = N(1) / (df + N(2 * k + 1));
        p = p * (k == 0 ? (N(1) + part) / (N(1) + inverse) : fma(-part, part, N(1)));
      }
      N z = N(2) / (df + N(2 * steps));
      constexpr Asymptotic<false> c;
      return fma(N(0.5), log(p), z * polynomial(z * z, c.of));
    } else {  // -1/2 log(1 + k/a), where k is between 1/4 and 1/pi: minimax, with an error of 2e-9
      constexpr double c[] = {0.250000001817, 0.0624994593424, 0.125025801703,  0.214413156849,
                              0.291711654149, 0.233962024409,  -0.184842571615, 0.291172993609};
      return N(-0.5) * log(fma(inverse + inverse, polynomial(argument(), c), N(1)));
    }
  }

  AEVB_INLINE N derivative() const {
    if constexpr (N::digits > 24) {
      N sum(0);
      AEVB_UNROLL
      for (int k = 0; k < steps; ++k) {  // H'(a) - H'(a + 1) = 1 / (4 a (a + 1/2) (a + 1))
        sum = sum + N(2) / (df + N(2 * k)) / (df + N(2 * k + 1)) / (df + N(2 * k + 2));
      }
      N z = N(2) / (df + N(2 * steps));
      constexpr Asymptotic<true> c;
      return fma(z * z, polynomial(z * z, c.of), sum);
    } else {  // its poles at df = 0 and -1 times a function between 1/2 and 1: minimax, with an error of 2e-9
      constexpr double c[] = {0.499999999102, 0.500000578538, 0.999939077264, 1.62748103778,  1.69862151684,
                              0.643624099761, -8.10029504659, 16.988662755,   -16.0834790576, 6.33376984168};
      return polynomial(argument(), c) * inverse / (N(1) + df);
    }
  }

 private:
  AEVB_INLINE N argument() const { return N(1) / (N(2.5) + df); }

  // In float64 the argument is increased by this, and then the asymptotic series is right to its last digit.
  static constexpr int steps = 10;
  template <bool derived>
  struct Asymptotic {
    double of[12] = {-0.125,
                     0.0052083333333333333,
                     -0.0015625,
                     0.0011858258928571429,
                     -0.0016818576388888889,
                     0.0038341175426136364,
                     -0.012819730318509615,
                     0.05910040537516276,
                     -0.35928737415986903,
                     2.784861777958117,
                     -26.805721697353181,
                     313.69655055423146};
    constexpr Asymptotic() {
      if (derived)
        for (int k = 0; k < 12; ++k) of[k] *= -(2 * k + 1);
    }
  };
};

// log p(x | mu, s, df) = H(df / 2) - 1/2 log 2 pi - log s - (df + 1)/2 log(1 + t^2 / df),  t = (x - mu) / s. Its limit
// for an infinite df is the Gaussian.
struct StudentT {
  static constexpr int arity = 4;  // x, mu, spread, df
  static constexpr double half_log_2pi = 0.91893853320467274178;
  double x_scale;
  SpreadOf spread;

  template <class N>
  AEVB_INLINE N value(N x, N mu, N s, N df) const {
    const Tail<N> of(fma(x, N(x_scale), -mu), spread.inverse_std(s), df);
    N constant = HalfStep<N>{of.df, of.inverse}.value() - fma(N(0.5), spread.logvar(s), N(half_log_2pi));
    N half_square = N(0.5) * of.t * of.t;  // of the Gaussian, and where y is so small, (1 + 1/df) log(1 + y) / y of it
    N gaussian = half_square * (N(1) + of.inverse) * fma(N(-0.5), of.y, N(1));
    const N infinity(__builtin_inf());
    N energy = select(of.y < N(1e-8), gaussian, fma(N(0.5), of.df, N(0.5)) * of.log1p_y());
    return select((constant == infinity) & (energy == infinity), -energy, constant - energy);
  }

  template <class N>
  AEVB_INLINE void gradient(N x, N mu, N s, N df, N& dx, N& dmu, N& ds, N& ddf) const {
    N difference = fma(x, N(x_scale), -mu), inverse_std = spread.inverse_std(s);
    const Tail<N> of(difference, inverse_std, df);
    // 1 / (1 + y); where y is huge, the gradient by mu.
    N quotient = select(of.far, of.df + N(1), N(1)) / select(of.far, difference, N(1) + of.y);
    N damped = of.t * quotient;
    dmu = select(of.far, quotient, symmetric_product(damped * (N(1) + of.inverse), inverse_std));
    dx = -dmu * N(x_scale);
    N by_log_std = select(of.far, of.df, fma(of.t, damped, -quotient));  // (t^2 - 1) / (1 + y)
    ds = spread.times_slope(N(0.5) * by_log_std, s);
    N z = select(of.far, N(1), of.y * quotient);
    ddf = N(0.5) * (fma(of.inverse, z, HalfStep<N>{of.df, of.inverse}.derivative()) - of.excess(z));
  }

 private:
  template <class N>
  struct Tail {
    N t, df, inverse, root_y, y;  // y = t^2 / df
    decltype(N() > N()) far;      // 1 + y is y, and y may overflow

    AEVB_INLINE Tail(N difference, N inverse_std, N given_df) {
      const N least(N::digits > 24 ? 1e-307 : 1e-37);  // of the df whose inverse is finite
      df = select(given_df < least, select(given_df > N(0), least, N(__builtin_nan(""))), given_df);
      t = symmetric_product(difference, inverse_std);
      N inverse_root = N(1) / sqrt(df);
      inverse = inverse_root * inverse_root;
      root_y = symmetric_product(inverse_root, abs(t));
      far = root_y > N(1e10);
      y = root_y * root_y;
    }

    AEVB_INLINE N log1p_y() const {
      N u = select(far, root_y, N(1) + y), logarithm = log(u);
      return select(far, logarithm + logarithm, logarithm + (y - (u - N(1))) / u);
    }

    // log(1 + y) - z, where z = y / (1 + y). Below y = 1 it is summed as a series of s = y / (2 + y), whose terms are
    // all positive: 2 s^2 (1 / (1 + s) + s (1/3 + s^2 / 5 + ...)).
    AEVB_INLINE N excess(N z) const {
      constexpr OddReciprocals<(N::digits > 24 ? 17 : 7)> c;
      N s = y / (N(2) + y), square = s * s;
      N near = (square + square) * fma(s, polynomial(square, c.from_3), N(1) - N(0.5) * z);
      return select(y < N(1), near, log1p_y() - z);
    }
  };

  // 1/3, 1/5, ...
  template <int count>
  struct OddReciprocals {
    double from_3[count];
    constexpr OddReciprocals() : from_3() {
      for (int k = 0; k < count; ++k) from_3[k] = 1.0 / (2 * k + 3);
    }
  };
};

}  // namespace aevb::AEVB_ISA
