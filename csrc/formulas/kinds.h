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
enum class Spread : int { logvar, log_std, std, var };

}  // namespace aevb
