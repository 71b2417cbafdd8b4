// The log-likelihood of images under a mixture of discretised logistics, as an operator.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "ops/common/autocast.h"
#include "ops/common/autograd.h"
#include "ops/common/register.h"
#include "ops/positions.h"

namespace aevb {
namespace {

using at::Tensor;

// The arguments of log p(x | params) and its backward, beside tensors.
struct DiscretizedLogisticMixture {
  static constexpr const char *name = "DiscretizedLogisticMixtureLogProb",
                              *operator_name = "aevb_ext::discretized_logistic_mixture_log_prob";
  std::string reduction;

  auto settings() const { return std::make_tuple(reduction); }
  void check(const variable_list& inputs) const;
  PositionProblem problem(const variable_list& inputs) const {
    return {
        PositionFormula::discretized_logistic_mixture, inputs[0], inputs[1], -3, true, 2, parse_reduction(reduction)};
  }
  std::tuple<Tensor, Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const Tensor& speculative = {}) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

void DiscretizedLogisticMixture::check(const variable_list& inputs) const {
  const Tensor &x = inputs[0], &params = inputs[1];
  check_floating("params", params);
  TORCH_CHECK_TYPE(is_floating(x.scalar_type()) || x.scalar_type() == at::kByte,
                   "x must be float64, float32, bfloat16 or float16 (in [-1, 1]) or uint8, got ", x.scalar_type());
  check_same_device("x", x, "params", params);
  TORCH_CHECK_VALUE(params.dim() >= 3 && params.sym_size(-3) > 0 && params.sym_size(-3) % 10 == 0,
                    "params must be [*samples, *batch, 10 K, H, W] for K components, got ", params.sym_sizes());
  TORCH_CHECK_VALUE(x.dim() >= 3 && x.sym_size(-3) == 3, "x must be [*batch, 3, H, W], got ", x.sym_sizes());
  check_broadcasts("the pixels of x", x.select(-3, 0), "the pixels of params", params.select(-3, 0));
}

Tensor forward(const Tensor& x, const Tensor& params, c10::string_view reduction) {
  const DiscretizedLogisticMixture op{std::string(reduction)};
  op.check({x, params});
  return row_values(op.problem({x, params}));
}

std::tuple<Tensor, Tensor> speculative_values(const Tensor& x, const Tensor& params, c10::string_view reduction) {
  const DiscretizedLogisticMixture op{std::string(reduction)};
  return speculative_forward(op, {x, params}, std::array<bool, 2>{false, true});
}

Tensor backward(const Tensor& cotangent, const Tensor& x, const Tensor& params, c10::string_view reduction,
                const std::optional<Tensor>& speculative) {
  const DiscretizedLogisticMixture op{std::string(reduction)};
  return gradients_in_graph(op, cotangent, {x, params}, std::array<bool, 2>{false, true}, speculative)[1];
}

std::tuple<Tensor, Tensor> DiscretizedLogisticMixture::speculative(const variable_list& saved,
                                                                   at::ArrayRef<bool>) const {
  static auto op =
      find_operator<decltype(speculative_values)>("aevb_ext::discretized_logistic_mixture_log_prob_speculative");
  return op.call(saved[0], saved[1], reduction);
}

variable_list DiscretizedLogisticMixture::fused(const variable_list& cotangents, const variable_list& saved,
                                                at::ArrayRef<bool> wanted, const Tensor& speculative) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::discretized_logistic_mixture_log_prob_backward");
  if (!wanted[1]) return {Tensor(), Tensor()};
  return {Tensor(), op.call(cotangents[0], saved[0], saved[1], reduction, optional(speculative))};
}

// e^-a and 1 - e^-a, whose derivative at 0 is that on the right.
std::array<Tensor, 2> exp_of_minus(const Tensor& a) { return {at::exp(-a), -at::expm1(-a)}; }

// As the kernels compute it (formulas/), by operations that are differentiable themselves. Tensors are [..., 3, K, H,
// W] for the three colours.
variable_list DiscretizedLogisticMixture::differentiable(const variable_list& cotangents, const variable_list& saved,
                                                         at::ArrayRef<bool> wanted) const {
  const Tensor &given = saved[0], &params = saved[1];
  if (!wanted[1]) return {Tensor(), Tensor()};
  const auto wide = wide_type(params);
  const Tensor pixels = params.select(-3, 0);
  const Tensor g = differentiable_cotangent(cotangents[0], pixels, 2, parse_reduction(reduction))
                       .expand_symint(pixels.sym_sizes())
                       .unsqueeze(-3);
  const Tensor colours = given.scalar_type() == at::kByte ? given.to(wide) * (2.0 / 255) - 1 : given.to(wide);
  const Tensor x = colours.unsqueeze(-3), all = params.to(wide);
  const auto components = params.sym_size(-3) / 10;
  const Tensor logits = all.narrow_symint(-3, 0, components);
  auto sizes = params.sym_sizes().vec();
  const auto height = sizes[sizes.size() - 2], width = sizes.back();
  sizes.resize(sizes.size() - 3);
  const auto shaped = [&](std::initializer_list<c10::SymInt> last) {
    auto whole = sizes;
    whole.insert(whole.end(), last);
    return whole;
  };
  const Tensor rest =
      all.narrow_symint(-3, components, 9 * components).reshape_symint(shaped({3, 3, components, height, width}));
  const Tensor means = rest.select(-4, 0), log_scales = rest.select(-4, 1), z = rest.select(-4, 2);
  const Tensor t = at::tanh(z), red = x.select(-4, 0), green = x.select(-4, 1);
  const Tensor nothing = at::zeros_like(means.select(-4, 0));
  const Tensor before =
      at::stack({nothing, t.select(-4, 0) * red, t.select(-4, 1) * red + t.select(-4, 2) * green}, -4);
  const Tensor s = log_scales.clamp_min(-7), inverse_scale = at::exp(-s), distance = x - (means + before);
  const Tensor sign = at::where(distance < 0, -1, 1).to(wide), u = distance * sign * inverse_scale,
               h = inverse_scale / 255;
  // In the limit of a large scale near / h is 1, and is not computed of what has underflowed.
  const Tensor limited = at::exp(-s.clamp_max(40)) / 255;
  const auto [E, far] = exp_of_minus(u);
  const auto [of_half, near] = exp_of_minus(limited);
  const Tensor sum = of_half + E, product = 1 + of_half * E, both = near * (2 - near);
  const Tensor lowest = (x < -0.999).expand_as(u), highest = (x > 0.999).expand_as(u),
               open = lowest.logical_or(highest);
  const Tensor beyond = lowest.logical_and(distance < 0).logical_or(highest.logical_and(distance >= 0));
  // log P, and its derivatives by u and h.
  const Tensor to_far = of_half * E / product, to_near = of_half / sum;
  const Tensor log_part =
      at::where(open, at::where(beyond, -u - sum.log(), -product.log()),
                (near / limited * (2 - near)).log() - s - std::log(255.0) - u - (sum * product).log());
  const Tensor by_u = at::where(open, at::where(beyond, -to_near, to_far), -of_half * far * (1 + E) / (sum * product));
  const Tensor narrowing = at::where(open, 0, 2 * limited * of_half * of_half / both);
  const Tensor by_h = at::where(open, at::where(beyond, to_near, to_far), to_far + to_near);
  const Tensor responsibility = at::softmax(logits + log_part.sum(-4), -3);
  const Tensor weight = (g * responsibility).unsqueeze(-4);
  const Tensor by_mean = -weight * sign * inverse_scale * by_u;
  const Tensor by_scale = (-weight * (u * by_u + h * by_h + narrowing)).masked_fill(log_scales < -7, 0);
  const Tensor of_green = by_mean.select(-4, 1) * red, of_blue = by_mean.select(-4, 2);
  const Tensor by_z = at::stack({of_green, of_blue * red, of_blue * green}, -4) * (1 - t * t);
  const Tensor by_logits = g * (responsibility - at::softmax(logits, -3));
  const Tensor others =
      at::stack({by_mean, by_scale, by_z}, -4).reshape_symint(shaped({9 * components, height, width}));
  return {Tensor(), narrowed(at::cat({by_logits, others}, -3), params.scalar_type())};
}

Tensor autograd(const Tensor& x, const Tensor& params, c10::string_view reduction) {
  static auto op = find_operator<decltype(forward)>(DiscretizedLogisticMixture::operator_name);
  const variable_list inputs = {x.requires_grad() ? x.detach() : x, params};
  return record(DiscretizedLogisticMixture{std::string(reduction)}, inputs, inputs,
                [&] { return op.call(x, params, reduction); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("discretized_logistic_mixture_log_prob(Tensor x, Tensor params, str reduction) -> Tensor", kAnyLayout);
  m.def("discretized_logistic_mixture_log_prob_speculative(Tensor x, Tensor params, str reduction) -> (Tensor, Tensor)",
        kAnyLayout);
  m.def(
      "discretized_logistic_mixture_log_prob_backward(Tensor cotangent, Tensor x, Tensor params, str reduction, "
      "Tensor? speculative=None) -> Tensor",
      kAnyLayout);
}
AEVB_REGISTER("discretized_logistic_mixture_log_prob", forward)
AEVB_REGISTER("discretized_logistic_mixture_log_prob_speculative", speculative_values)
AEVB_REGISTER("discretized_logistic_mixture_log_prob_backward", backward)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("discretized_logistic_mixture_log_prob", TORCH_FN(autograd)); }

}  // namespace aevb
