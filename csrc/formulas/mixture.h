// Mixtures of diagonal Gaussians: log p(z) = log sum_k e^a_k,  a_k = c_k - 1/2 sum_d t_kd^2,  t_kd = (z_d - mu_kd) /
// sigma_kd,  c_k = log pi_k - sum_d (log sigma_kd + 1/2 log 2 pi). Nothing is kept of the components but their sum.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// The difference is squared, not expanded: mu^2 - 2 mu z + z^2 cancels. 1 / sigma is finite.
template <class N>
AEVB_INLINE N standardised_by(N z, N mu, N inverse_std) {
  return (z - mu) * inverse_std;
}

// e^x of a difference to the largest exponent, or to the logarithm of the sum: x is at most a rounding above 0. What is
// below the normal numbers of float32 may be 0.
template <class N>
AEVB_INLINE N exp_of_difference(N x) {
  return exp(x);
}

// log sum_k e^a_k, of one a_k after another. It is -infinity if there is no other.
template <class N>
struct LogSum {
  static constexpr double lowest = N::digits > 24 ? -1.7976931348623157e308 : -3.4028234663852886e38;
  N most{lowest}, sum{0.0};  // the largest a_k, and the sum of e^(a_k - most)

  // A NaN stays in the sum.
  AEVB_INLINE void add(N a) {
    const N above = a - most, e = exp_of_difference(-abs(above));
    const auto higher = above > N(0);
    sum = select(higher, fma(sum, e, N(1)), sum + e);
    most = select(higher, a, most);
  }

  // The sum in units of e^base, which is the largest of several.
  AEVB_INLINE N relative_to(N base) const { return sum * exp_of_difference(most - base); }
};

// The derivatives of log p(z), times its cotangent g, add up to
//   d z_d   = -sum_k w_k t_kd / sigma_kd,          w_k = g e^(a_k - log p(z)),
//   d mu_kd =  sum of the rows' w_k t_kd           / sigma_kd,
//   d v_kd  =  sum of the rows' w_k (t_kd^2 - 1)   / 2,            v = log sigma^2,
//   d c_k   =  sum of the rows' w_k.
template <class N>
AEVB_INLINE N weight_of(N a, N log_density, N cotangent) {
  return cotangent * exp_of_difference(a - log_density);
}

// A row's density and cotangent, T numbers, as they go into its weights. If the density is 0 or infinite they give 0.
template <class T>
AEVB_INLINE void without_infinite_density(T& log_density, T& cotangent) {
  constexpr T infinity = __builtin_inf();
  if (log_density == infinity || log_density == -infinity) log_density = infinity, cotangent = 0;
}

// Without the factor 1 / sigma of d mu, and 1/2 of d v. `absent`: t may be infinite where w is 0.
template <bool absent, class N>
AEVB_INLINE void add_gradients(N w, N t, N inverse_std, N& minus_dz, N& dmu, N& dv) {
  if constexpr (absent) t = select(w == N(0), N(0), t);
  minus_dz = fma(w, t * inverse_std, minus_dz);
  dmu = fma(w, t, dmu);
  dv = fma(w, fma(t, t, N(-1)), dv);
}

}  // namespace aevb::AEVB_ISA
