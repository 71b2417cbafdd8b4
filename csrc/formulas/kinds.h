// The names of formulas, and of the parameterisations of a Gaussian's spread.
#pragma once

namespace aevb {

enum class Formula : int {
  bernoulli,
  bernoulli_of_probs,
  gaussian,
  gaussian_of_sigmoid,
  gaussian_kl,
  gaussian_kl_prior
};
enum class Spread : int { logvar, log_std, std, var };

}  // namespace aevb
