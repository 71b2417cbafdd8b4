// The Gaussian log-likelihood as an operator over rows.
#pragma once
#include "ops/common/autograd.h"
#include "ops/common/rows.h"

namespace aevb {

// The arguments of log p(x | mu, sigma) and its backward, beside tensors.
struct GaussianLogProb {
  static constexpr const char *name = "GaussianLogProb", *operator_name = "aevb_ext::gaussian_log_prob",
                              *backward_name = "aevb_ext::gaussian_log_prob_backward";
  std::string spread;
  double x_scale = 1;
  std::string reduction;
  int64_t batch_dims = 1;
  std::optional<int64_t> packed = {};  // common/packed.h

  auto settings() const { return std::make_tuple(spread, x_scale, reduction, batch_dims); }
  void check(const variable_list& inputs) const {
    const at::Tensor &x = inputs[0], &mu = inputs[1], &logvar = inputs[2];
    check_floating("mu", mu);
    check_data("x", x);
    check_same_device("x", x, "mu", mu);
    check_like("logvar", logvar, "mu", mu);
    check_batch_dims(batch_dims, "x", x);
    check_broadcasts("x", x, "mu", mu);
  }
  RowProblem problem(const variable_list& inputs) const {
    const int64_t event_dim = inputs[0].dim() - batch_dims;
    return {Formula::gaussian, {x_scale, parse_spread(spread)}, inputs, 1, event_dim, parse_reduction(reduction)};
  }
  std::tuple<at::Tensor, at::Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const at::Tensor& speculative = {}) const;
  variable_list paired(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const {
    return row_gradients(problem(saved), cotangents[0], wanted, true);
  }
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

}  // namespace aevb
