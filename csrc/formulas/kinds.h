// The names of formulas, and of the parameterisations of a Gaussian's spread.
#pragma once

namespace aevb {

enum class Formula : int {
  bernoulli,
  bernoulli_of_probs,
  gaussian,
  gaussian_of_sigmoid,
  gaussian_kl,
  gaussian_kl_prior,
  poisson,
  negative_binomial,
  negative_binomial_of_logits,
  zero_inflated_negative_binomial,
  laplace,
  student_t,
  continuous_bernoulli,
  discretized_logistic
};
// The families, in this order: each is compiled by itself.
constexpr bool is_of_counts(Formula formula) {
  return Formula::poisson <= formula && formula <= Formula::zero_inflated_negative_binomial;
}
constexpr bool is_continuous(Formula formula) { return formula >= Formula::laplace; }

enum class Spread : int { logvar, log_std, std, var };

}  // namespace aevb
