#include "ops/gaussian_kl.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "ops/common/autocast.h"
#include "ops/common/packed.h"
#include "ops/common/register.h"
#include "ops/common/rows.h"
#include "ops/common/spread.h"

namespace aevb {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The arguments of the KL divergence and its backward, beside tensors.
struct GaussianKl {
  static constexpr const char *name = "GaussianKl", *operator_name = "aevb_ext::gaussian_kl",
                              *backward_name = "aevb_ext::gaussian_kl_backward";
  std::string spread, reduction;
  int64_t batch_dims = 1;
  std::optional<int64_t> packed = {};  // common/packed.h

  auto settings() const { return std::make_tuple(spread, reduction, batch_dims); }
  // Inputs: mu, logvar, and those of the prior, which may be undefined.
  void check(const variable_list& inputs) const {
    check_floating("mu", inputs[0]);
    check_like("logvar", inputs[1], "mu", inputs[0]);
    if (inputs[2].defined()) check_like("prior_mu", inputs[2], "mu", inputs[0]);
    if (inputs[3].defined()) check_like("prior_logvar", inputs[3], "mu", inputs[0]);
    check_batch_dims(batch_dims, "mu", inputs[0]);
  }

  // Without a prior: the formula for N(0, I). If only the prior's mean or spread is given, the other is that of N(0,
  // I).
  RowProblem problem(const variable_list& inputs) const {
    const Tensor &mu = inputs[0], &logvar = inputs[1];
    Tensor prior_mu = inputs[2], prior_logvar = inputs[3];
    const Spread kind = parse_spread(spread);
    RowProblem problem = {Formula::gaussian_kl,      {1.0, kind}, {mu, logvar}, 0, mu.dim() - batch_dims,
                          parse_reduction(reduction)};
    if (!prior_mu.defined() && !prior_logvar.defined()) return problem;
    problem.formula = Formula::gaussian_kl_prior;
    const bool linear = kind == Spread::std || kind == Spread::var;
    if (!prior_mu.defined()) prior_mu = at::zeros({}, mu.options());
    if (!prior_logvar.defined()) prior_logvar = at::full({}, linear ? 1 : 0, mu.options());
    problem.operands.push_back(prior_mu);
    problem.operands.push_back(prior_logvar);
    return problem;
  }
  std::tuple<Tensor, Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const Tensor& speculative = {}) const;
  variable_list paired(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const {
    return row_gradients(problem(saved), cotangents[0], wanted, true);
  }
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

Tensor forward(const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
               const OptionalTensor& prior_logvar, c10::string_view spread, c10::string_view reduction,
               int64_t batch_dims) {
  const GaussianKl op{std::string(spread), std::string(reduction), batch_dims};
  const variable_list inputs = {mu, logvar, prior_mu.value_or(Tensor()), prior_logvar.value_or(Tensor())};
  op.check(inputs);
  return row_values(op.problem(inputs));
}

std::tuple<Tensor, Tensor> speculative_values(const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
                                              const OptionalTensor& prior_logvar, c10::string_view spread,
                                              c10::string_view reduction, int64_t batch_dims,
                                              std::array<bool, 4> wanted, std::optional<int64_t> packed) {
  const GaussianKl op{std::string(spread), std::string(reduction), batch_dims};
  const variable_list inputs = {mu, logvar, prior_mu.value_or(Tensor()), prior_logvar.value_or(Tensor())};
  return speculative_forward(op, inputs, wanted, packed.has_value());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& cotangent, const Tensor& mu, const Tensor& logvar,
                                                    const OptionalTensor& prior_mu, const OptionalTensor& prior_logvar,
                                                    c10::string_view spread, c10::string_view reduction,
                                                    int64_t batch_dims, std::array<bool, 4> wanted,
                                                    const OptionalTensor& speculative, std::optional<int64_t> packed) {
  const GaussianKl op{std::string(spread), std::string(reduction), batch_dims};
  const variable_list inputs = {mu, logvar, prior_mu.value_or(Tensor()), prior_logvar.value_or(Tensor())};
  auto gradients = gradients_in_graph(op, cotangent, inputs, wanted, speculative, packed.has_value());
  if (packed) pack(gradients, 0, mu, *packed);
  gradients.resize(4);
  return {gradients[0], gradients[1], gradients[2], gradients[3]};
}

std::tuple<Tensor, Tensor> GaussianKl::speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(speculative_values)>("aevb_ext::gaussian_kl_speculative");
  return op.call(saved[0], saved[1], optional(saved[2]), optional(saved[3]), spread, reduction, batch_dims,
                 {wanted[0], wanted[1], wanted[2], wanted[3]}, packed);
}

variable_list GaussianKl::fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                                const Tensor& speculative) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::gaussian_kl_backward");
  const bool any = packed && (wanted[0] || wanted[1]);
  auto [dmu, dlogvar, dprior_mu, dprior_logvar] = op.call(
      cotangents[0], saved[0], saved[1], optional(saved[2]), optional(saved[3]), spread, reduction, batch_dims,
      {wanted[0] || any, wanted[1] || any, wanted[2], wanted[3]}, optional(speculative), any ? packed : std::nullopt);
  variable_list gradients = {dmu, dlogvar, dprior_mu, dprior_logvar};
  if (any) unpack(gradients, 0, saved[0], *packed);
  return gradients;
}

variable_list GaussianKl::differentiable(const variable_list& cotangents, const variable_list& saved,
                                         at::ArrayRef<bool> wanted) const {
  return differentiable_kl_backward(cotangents[0], saved, spread, reduction, batch_dims, wanted);
}

Tensor autograd(const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
                const OptionalTensor& prior_logvar, c10::string_view spread, c10::string_view reduction,
                int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>(GaussianKl::operator_name);
  const variable_list inputs = {mu, logvar, prior_mu.value_or(Tensor()), prior_logvar.value_or(Tensor())};
  return record(GaussianKl{std::string(spread), std::string(reduction), batch_dims, packed_dim(mu, logvar)}, inputs,
                inputs, [&] { return op.call(mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims); });
}

Tensor autocast(const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
                const OptionalTensor& prior_logvar, c10::string_view spread, c10::string_view reduction,
                int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>(GaussianKl::operator_name);
  const WithoutAutocast guard;
  const auto [m, s, pm, ps] = promoted(mu, logvar, prior_mu.value_or(Tensor()), prior_logvar.value_or(Tensor()));
  return op.call(m, s, optional(pm), optional(ps), spread, reduction, batch_dims);
}

}  // namespace

variable_list differentiable_kl_backward(const Tensor& cotangent, const variable_list& saved, const std::string& spread,
                                         const std::string& reduction, int64_t batch_dims, at::ArrayRef<bool> wanted) {
  const Tensor &mu = saved[0], &logvar = saved[1], &prior_mu = saved[2], &prior_logvar = saved[3];
  const Spread kind = parse_spread(spread);
  const auto wide = wide_type(mu);
  const Tensor g = differentiable_cotangent(cotangent, mu, mu.dim() - batch_dims, parse_reduction(reduction));
  const Tensor s = logvar.to(wide);
  Tensor w = logvar_of(s, kind), q = mu.to(wide), dmu, prior_s;
  if (prior_mu.defined()) q = q - prior_mu.to(wide);
  dmu = q;
  if (prior_logvar.defined()) {
    prior_s = prior_logvar.to(wide);
    const Tensor prior_v = logvar_of(prior_s, kind), precision = (-0.5 * prior_v).exp();
    w = w - prior_v;
    q = product(q, precision);
    dmu = product(q, precision);
  }
  const Tensor expm1 = w.expm1();
  variable_list gradients(4);
  if (wanted[0]) gradients[0] = as_operand(g * dmu, mu);
  if (wanted[1])
    gradients[1] = as_operand((g * times_slope(0.5 * expm1, s, kind)).expand_symint(mu.sym_sizes()), logvar);
  if (wanted[2]) gradients[2] = as_operand(-g * dmu, prior_mu);
  if (wanted[3]) gradients[3] = as_operand(times_slope(-0.5 * g * (expm1 + q * q), prior_s, kind), prior_logvar);
  return gradients;
}

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def(
      "gaussian_kl(Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, str spread, str reduction, "
      "int batch_dims) -> Tensor",
      kAnyLayout);
  m.def(
      "gaussian_kl_speculative(Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, str spread, "
      "str reduction, int batch_dims, bool[4] wanted, int? packed=None) -> (Tensor, Tensor)",
      kAnyLayout);
  m.def(
      "gaussian_kl_backward(Tensor cotangent, Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, "
      "str spread, str reduction, int batch_dims, bool[4] wanted, Tensor? speculative=None, int? packed=None) -> "
      "(Tensor, Tensor, Tensor, Tensor)",
      kAnyLayout);
}
AEVB_REGISTER("gaussian_kl", forward)
AEVB_REGISTER("gaussian_kl_speculative", speculative_values)
AEVB_REGISTER("gaussian_kl_backward", backward)
AEVB_AUTOCAST("gaussian_kl", autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("gaussian_kl", TORCH_FN(autograd)); }

}  // namespace aevb
