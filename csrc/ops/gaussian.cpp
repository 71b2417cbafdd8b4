#include "ops/gaussian.h"

#include "ops/common/autocast.h"
#include "ops/common/packed.h"
#include "ops/common/register.h"
#include "ops/common/spread.h"

namespace aevb {
namespace {

using at::Tensor;

Tensor forward(const Tensor& x, const Tensor& mu, const Tensor& logvar, c10::string_view spread, double x_scale,
               c10::string_view reduction, int64_t batch_dims) {
  const GaussianLogProb op{std::string(spread), x_scale, std::string(reduction), batch_dims};
  op.check({x, mu, logvar});
  return row_values(op.problem({x, mu, logvar}));
}

std::tuple<Tensor, Tensor> speculative_values(const Tensor& x, const Tensor& mu, const Tensor& logvar,
                                              c10::string_view spread, double x_scale, c10::string_view reduction,
                                              int64_t batch_dims, std::array<bool, 3> wanted,
                                              std::optional<int64_t> packed) {
  const GaussianLogProb op{std::string(spread), x_scale, std::string(reduction), batch_dims};
  return speculative_forward(op, {x, mu, logvar}, wanted, packed.has_value());
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& cotangent, const Tensor& x, const Tensor& mu,
                                            const Tensor& logvar, c10::string_view spread, double x_scale,
                                            c10::string_view reduction, int64_t batch_dims, std::array<bool, 3> wanted,
                                            const std::optional<Tensor>& speculative, std::optional<int64_t> packed) {
  const GaussianLogProb op{std::string(spread), x_scale, std::string(reduction), batch_dims};
  auto gradients = gradients_in_graph(op, cotangent, {x, mu, logvar}, wanted, speculative, packed.has_value());
  if (packed) pack(gradients, 1, mu, *packed);
  return {gradients[0], gradients[1], gradients[2]};
}

Tensor autograd(const Tensor& x, const Tensor& mu, const Tensor& logvar, c10::string_view spread, double x_scale,
                c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>(GaussianLogProb::operator_name);
  const GaussianLogProb settings{std::string(spread), x_scale, std::string(reduction), batch_dims,
                                 packed_dim(mu, logvar)};
  return record(settings, {x, mu, logvar}, {x, mu, logvar},
                [&] { return op.call(x, mu, logvar, spread, x_scale, reduction, batch_dims); });
}

// x keeps its dtype: every data dtype is accepted with every dtype of the other operands.
Tensor autocast(const Tensor& x, const Tensor& mu, const Tensor& logvar, c10::string_view spread, double x_scale,
                c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>(GaussianLogProb::operator_name);
  const WithoutAutocast guard;
  const auto [m, s] = promoted(mu, logvar);
  return op.call(x, m, s, spread, x_scale, reduction, batch_dims);
}

}  // namespace

std::tuple<Tensor, Tensor> GaussianLogProb::speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(speculative_values)>("aevb_ext::gaussian_log_prob_speculative");
  return op.call(saved[0], saved[1], saved[2], spread, x_scale, reduction, batch_dims,
                 {wanted[0], wanted[1], wanted[2]}, packed);
}

variable_list GaussianLogProb::fused(const variable_list& cotangents, const variable_list& saved,
                                     at::ArrayRef<bool> wanted, const Tensor& speculative) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::gaussian_log_prob_backward");
  const bool any = packed && (wanted[1] || wanted[2]);
  auto [dx, dmu, dlogvar] =
      op.call(cotangents[0], saved[0], saved[1], saved[2], spread, x_scale, reduction, batch_dims,
              {wanted[0], wanted[1] || any, wanted[2] || any}, optional(speculative), any ? packed : std::nullopt);
  variable_list gradients = {dx, dmu, dlogvar};
  if (any) unpack(gradients, 1, saved[1], *packed);
  return gradients;
}

variable_list GaussianLogProb::differentiable(const variable_list& cotangents, const variable_list& saved,
                                              at::ArrayRef<bool> wanted) const {
  const Tensor &x = saved[0], &mu = saved[1], &logvar = saved[2];
  const Spread kind = parse_spread(spread);
  const auto wide = wide_type(mu);
  const Tensor g = differentiable_cotangent(cotangents[0], mu, x.dim() - batch_dims, parse_reduction(reduction));
  const Tensor s = logvar.to(wide), inverse_std = (-0.5 * logvar_of(s, kind)).exp();
  const Tensor t = product(x.to(wide) * x_scale - mu.to(wide), inverse_std);
  const Tensor dmu = g * product(t, inverse_std);
  variable_list gradients(3);
  if (wanted[0]) gradients[0] = as_operand(-dmu * x_scale, x);
  if (wanted[1]) gradients[1] = as_operand(dmu, mu);
  if (wanted[2]) gradients[2] = as_operand(times_slope(g * 0.5 * (t * t - 1), s, kind), logvar);
  return gradients;
}

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def(
      "gaussian_log_prob(Tensor x, Tensor mu, Tensor logvar, str spread, float x_scale, str reduction, "
      "int batch_dims) -> Tensor",
      kAnyLayout);
  m.def(
      "gaussian_log_prob_speculative(Tensor x, Tensor mu, Tensor logvar, str spread, float x_scale, str reduction, "
      "int batch_dims, bool[3] wanted, int? packed=None) -> (Tensor, Tensor)",
      kAnyLayout);
  m.def(
      "gaussian_log_prob_backward(Tensor cotangent, Tensor x, Tensor mu, Tensor logvar, str spread, float x_scale, "
      "str reduction, int batch_dims, bool[3] wanted, Tensor? speculative=None, int? packed=None) -> "
      "(Tensor, Tensor, Tensor)",
      kAnyLayout);
}
AEVB_REGISTER("gaussian_log_prob", forward)
AEVB_REGISTER("gaussian_log_prob_speculative", speculative_values)
AEVB_REGISTER("gaussian_log_prob_backward", backward)
AEVB_AUTOCAST("gaussian_log_prob", autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("gaussian_log_prob", TORCH_FN(autograd)); }

}  // namespace aevb
