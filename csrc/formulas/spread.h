// The four parameterisations of a Gaussian's spread, with the functions of it that formulas need.
#pragma once
#include "formulas/kinds.h"
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// Whether a formula has a spread, and whether its first operand is data, which x_scale multiplies.
template <class F>
constexpr bool has_spread = requires(const F formula) { formula.spread; };
template <class F>
constexpr bool has_x_scale = requires(const F formula) { formula.x_scale; };

struct SpreadOf {
  Spread kind;

  // v = log sigma^2
  template <class N>
  AEVB_INLINE N logvar(N s) const {
    switch (kind) {
      case Spread::log_std: return s + s;
      case Spread::std: return N(2) * log(s);
      case Spread::var: return log(s);
      default: return s;
    }
  }

  // a dv / ds, divided once: 1 / s may overflow where a / s does not.
  template <class N>
  AEVB_INLINE N times_slope(N a, N s) const {
    switch (kind) {
      case Spread::log_std: return a + a;
      case Spread::std: return (a + a) / s;
      case Spread::var: return a / s;
      default: return a;
    }
  }

  // v(s) - v(prior), exact near the prior
  template <class N>
  AEVB_INLINE N logvar_over(N s, N prior) const {
    switch (kind) {
      case Spread::log_std: return N(2) * (s - prior);
      case Spread::std: return N(2) * log_ratio(s, prior);
      case Spread::var: return log_ratio(s, prior);
      default: return s - prior;
    }
  }

  // sigma
  template <class N>
  AEVB_INLINE N std(N s) const {
    switch (kind) {
      case Spread::log_std: return exp(s);
      case Spread::std: return s;
      case Spread::var: return sqrt(s);
      default: return exp_of(0.5, s);
    }
  }

  // sigma and sigma^2
  template <class N>
  AEVB_INLINE void std_and_var(N s, N& sigma, N& variance) const {
    switch (kind) {
      case Spread::log_std: return exp_and_square(1, s, sigma, variance);
      case Spread::std: sigma = s, variance = s * s; return;
      case Spread::var: sigma = sqrt(s), variance = s; return;
      default: return exp_and_square(0.5, s, sigma, variance);
    }
  }

  // d sigma / ds, given sigma
  template <class N>
  AEVB_INLINE N std_slope_at(N sigma) const {
    switch (kind) {
      case Spread::log_std: return sigma;
      case Spread::std: return N(1);
      case Spread::var: return N(0.5) / sigma;
      default: return N(0.5) * sigma;
    }
  }

  // d sigma / ds
  template <class N>
  AEVB_INLINE N std_slope(N s) const {
    switch (kind) {
      case Spread::log_std: return exp(s);
      case Spread::std: return N(1);
      case Spread::var: return N(0.5) / sqrt(s);
      default: return N(0.5) * exp_of(0.5, s);
    }
  }

  // 1 / sigma
  template <class N>
  AEVB_INLINE N inverse_std(N s) const {
    switch (kind) {
      case Spread::log_std: return inverse_exp_of(1, s);
      case Spread::std: return N(1) / s;
      case Spread::var: return N(1) / sqrt(s);
      default: return inverse_exp_of(0.5, s);
    }
  }

  // The s for which sigma = 1.
  AEVB_INLINE double unit() const { return kind == Spread::std || kind == Spread::var ? 1.0 : 0.0; }
};

}  // namespace aevb::AEVB_ISA
