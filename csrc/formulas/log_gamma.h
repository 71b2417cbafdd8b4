// What the likelihoods of counts need of the gamma function, each part without cancellation:
//   lgamma(z)  = (z - 1/2) log z - z + log(2 pi) / 2 + S(z)      (Stirling)
//   digamma(z) = log z - 1 / (2 z) - R(z)
// and, for the deviance of a count from its mean, t - log(1 + t) near t = 0.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// S(z) and R(z) of w = 1 / z^2 are 1 / z and 1 / z^2 times functions that stay near 1/12 for all z >= 1. They are
// integrals of 1 / (1 + w t^2) with positive weights, for which float64 has rational functions (whose coefficients are
// all positive: nothing cancels) and float32 polynomials, all minimax.

// S(z) for 1 / z <= 1, to an absolute error of 7.5e-9 in float32 and of 6.4e-17 in float64, before rounding.
template <class N>
AEVB_INLINE N stirling_of_inverse(N inverse) {
  const N w = inverse * inverse;
  if constexpr (N::digits > 24) {
    constexpr double above[] = {0.08333333333333327, 1.251334676643786,  6.2021997215413653,  12.740593623040685,
                                11.174655657402999,  3.8694993802585231, 0.41864500451485587, 0.0067321927078817733};
    constexpr double below[] = {1.0,
                                15.049349453057834,
                                74.918517830926075,
                                155.2482231090423,
                                138.65469394301629,
                                49.983372123671369,
                                5.9912439573001753,
                                0.1408659640432393};
    return inverse * polynomial(w, above) / polynomial(w, below);
  } else {
    constexpr double c[] = {0.0833333251215,   -0.00277695449598,  0.000778905218761, -0.000483421029402,
                            0.000340970950401, -0.000171036082444, 3.96799561185e-5};
    return inverse * polynomial(w, c);
  }
}

// R(z) for 1 / z <= 1, to 2e-8 / z^2 in float32 and 2e-17 / z^2 in float64, before rounding.
template <class N>
AEVB_INLINE N digamma_rest_of_inverse(N inverse) {
  const N w = inverse * inverse;
  if constexpr (N::digits > 24) {
    constexpr double above[] = {0.083333333333333314, 1.8730252490020642, 14.662052987527845,
                                51.030824488723293,   83.665961028419099, 63.057415038206149,
                                19.663097152761406,   1.9612688997788426, 0.027510074051747992};
    constexpr double below[] = {1.0,
                                22.576302988024345,
                                178.15464710164456,
                                629.16029651274903,
                                1059.461914395421,
                                839.78357209104732,
                                289.4626974161392,
                                36.074201455810314,
                                1.0181488169047584};
    return w * polynomial(w, above) / polynomial(w, below);
  } else {
    constexpr double c[] = {0.0833333115034,  -0.00833047497286, 0.00390112921793, -0.00349338573217,
                            0.00356882802298, -0.00287821393675, 0.00142655112122, -0.00031208660018};
    return w * polynomial(w, c);
  }
}

// (f - log(1 + f)) / f^2 for 1 + f in [sqrt(1/2), sqrt(2)], the minimax polynomial of float32, to an absolute 5e-9.
template <class N>
AEVB_INLINE N log_tail(N f) {
  constexpr double c[] = {0.499999999435,  -0.333333227936, 0.250000109401,  -0.200014467222, 0.166675367724,
                          -0.142323178596, 0.124208144679,  -0.118121361423, 0.11557287882,   -0.0676902411382};
  return polynomial(f, c);
}

// A number of float32 as m 2^e with m in [sqrt(1/2), sqrt(2)), whose lower end has the bits 0x3f3504f3.
template <class N>
struct SplitLog {
  static constexpr double high = 0.693359375 / 8388608, low = -2.12194440054690583e-4 / 8388608;  // log 2, in two parts
  decltype(N().bits()) power;
  N m, e;  // e times 2^23

  AEVB_INLINE explicit SplitLog(N r) {
    const auto bits = r.bits();
    power = (bits - 0x3f3504f3) & ~0x7fffff;
    m = N::of_bits(bits - power);
    e = N::of_integer(power);
  }
  // e log 2 + a, and a - e log 2
  AEVB_INLINE N added_to(N a) const { return fma(e, N(high), fma(e, N(low), a)); }
  AEVB_INLINE N taken_from(N a) const { return fma(e, N(-low), fma(e, N(-high), a)); }
  // t 2^-e + (2^-e - 1): if 1 + t is the number, m - 1 with a single rounding, for e of -1, 0 or 1.
  AEVB_INLINE N rest_of(N t) const {
    const N scale = N::of_bits(0x3f800000 - power);
    return fma(t, scale, scale - N(1));
  }
};

// log r of a normal number r > 0. What it gives for others, NaN included, is some number.
template <class N>
AEVB_INLINE N log_of_normal(N r) {
  if constexpr (N::digits > 24) {
    return log(r);
  } else {
    const SplitLog<N> split(r);
    const N f = split.m - N(1);
    return split.added_to(fma(-f * f, log_tail(f), f));
  }
}

// log(1 + t) for -1/2 <= t <= 1
template <class N>
AEVB_INLINE N log1p_of_near(N t) {
  if constexpr (N::digits > 24) {
    return log1p(t);
  } else {
    const SplitLog<N> split(N(1) + t);
    const N f = split.rest_of(t);
    return split.added_to(fma(-f * f, log_tail(f), f));
  }
}

// 2/3, 2/5, 2/7, ...
template <int count>
struct OddReciprocals {
  double twice_from_3[count];

  constexpr OddReciprocals() : twice_from_3() {
    for (int k = 0; k < count; ++k) twice_from_3[k] = 2.0 / (2 * k + 3);
  }
};

// log r and t - log r, which is never negative, of a normal number r = 1 + t > 0, each to a few ulp of itself. Both t
// and r are given, because near r = 1 only t, and far from it only r has all digits.
template <class N>
struct LogNearOne {
  N logarithm, excess;

  AEVB_INLINE LogNearOne(N t, N r) {
    if constexpr (N::digits > 24) {
      // log(1 + t) = 2 artanh s = 2 (s + s^3 / 3 + s^5 / 5 + ...), and t - 2 s = t s.
      const N s = t / (N(2) + t), square = s * s;
      constexpr OddReciprocals<18> c;
      const auto near = abs(t - N(0.25)) < N(0.75);
      const N small = s * fma(-square, polynomial(square, c.twice_from_3), t), far = log(r);
      excess = select(near, small, t - far);
      logarithm = select(near, t - small, far);
    } else {
      const auto away = abs(t - N(0.25)) > N(0.75);
      const SplitLog<N> split(select(away, r, N(1) + t));
      const N f = select(away, split.m - N(1), split.rest_of(t));
      const N tail = log_tail(f) * (f * f);
      logarithm = split.added_to(f - tail);
      excess = tail + (split.taken_from(t) - f);
    }
  }
};

}  // namespace aevb::AEVB_ISA
