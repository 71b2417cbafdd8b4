// The log-likelihood of classes, given the logits of each position, as an operator.
#include <ATen/ops/arange.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>

#include "ops/common/autocast.h"
#include "ops/common/autograd.h"
#include "ops/common/register.h"
#include "ops/positions.h"

namespace aevb {
namespace {

using at::Tensor;

// The arguments of log p(x | logits) and its backward, beside tensors.
struct Categorical {
  static constexpr const char *name = "CategoricalLogProb", *operator_name = "aevb_ext::categorical_log_prob";
  std::string reduction;
  int64_t batch_dims = 1;

  auto settings() const { return std::make_tuple(reduction, batch_dims); }
  void check(const variable_list& inputs) const {
    const Tensor &x = inputs[0], &logits = inputs[1];
    check_floating("logits", logits);
    check_counts("x", x);
    check_same_device("x", x, "logits", logits);
    TORCH_CHECK_VALUE(logits.dim() > 0 && logits.sym_size(-1) > 0, "logits must be [*samples, *batch, *event, C] with ",
                      "at least one class, got ", logits.sym_sizes());
    check_batch_dims(batch_dims, "x", x);
    check_broadcasts("x", x, "the positions of logits", logits.select(-1, 0));
  }
  PositionProblem problem(const variable_list& inputs) const {
    const Tensor &x = inputs[0], &logits = inputs[1];
    return {PositionFormula::categorical, x, logits, -1, false, x.dim() - batch_dims, parse_reduction(reduction)};
  }
  std::tuple<Tensor, Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const Tensor& speculative = {}) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

Tensor forward(const Tensor& x, const Tensor& logits, c10::string_view reduction, int64_t batch_dims) {
  const Categorical op{std::string(reduction), batch_dims};
  op.check({x, logits});
  return row_values(op.problem({x, logits}));
}

std::tuple<Tensor, Tensor> speculative_values(const Tensor& x, const Tensor& logits, c10::string_view reduction,
                                              int64_t batch_dims) {
  const Categorical op{std::string(reduction), batch_dims};
  return speculative_forward(op, {x, logits}, std::array<bool, 2>{false, true});
}

Tensor backward(const Tensor& cotangent, const Tensor& x, const Tensor& logits, c10::string_view reduction,
                int64_t batch_dims, const std::optional<Tensor>& speculative) {
  const Categorical op{std::string(reduction), batch_dims};
  return gradients_in_graph(op, cotangent, {x, logits}, std::array<bool, 2>{false, true}, speculative)[1];
}

std::tuple<Tensor, Tensor> Categorical::speculative(const variable_list& saved, at::ArrayRef<bool>) const {
  static auto op = find_operator<decltype(speculative_values)>("aevb_ext::categorical_log_prob_speculative");
  return op.call(saved[0], saved[1], reduction, batch_dims);
}

variable_list Categorical::fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                                 const Tensor& speculative) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::categorical_log_prob_backward");
  if (!wanted[1]) return {Tensor(), Tensor()};
  return {Tensor(), op.call(cotangents[0], saved[0], saved[1], reduction, batch_dims, optional(speculative))};
}

variable_list Categorical::differentiable(const variable_list& cotangents, const variable_list& saved,
                                          at::ArrayRef<bool> wanted) const {
  const Tensor &x = saved[0], &logits = saved[1];
  if (!wanted[1]) return {Tensor(), Tensor()};
  const auto wide = wide_type(logits);
  const Tensor g =
      differentiable_cotangent(cotangents[0], logits.select(-1, 0), x.dim() - batch_dims, parse_reduction(reduction));
  const Tensor classes = at::arange(c10::Scalar(logits.sym_size(-1)), logits.options().dtype(at::kDouble));
  const Tensor chosen = x.to(at::kDouble).unsqueeze(-1).eq(classes);
  // Nothing is the gradient where x is no class.
  const Tensor onehot = chosen.to(wide).masked_fill(chosen.any(-1, true).logical_not(), NAN);
  const Tensor gradient = g.unsqueeze(-1) * (onehot - at::softmax(logits.to(wide), -1));
  return {Tensor(), as_operand(gradient.expand_symint(logits.sym_sizes()), logits)};
}

Tensor autograd(const Tensor& x, const Tensor& logits, c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>(Categorical::operator_name);
  const variable_list inputs = {x.requires_grad() ? x.detach() : x, logits};
  return record(Categorical{std::string(reduction), batch_dims}, inputs, inputs,
                [&] { return op.call(x, logits, reduction, batch_dims); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("categorical_log_prob(Tensor x, Tensor logits, str reduction, int batch_dims) -> Tensor", kAnyLayout);
  m.def("categorical_log_prob_speculative(Tensor x, Tensor logits, str reduction, int batch_dims) -> (Tensor, Tensor)",
        kAnyLayout);
  m.def(
      "categorical_log_prob_backward(Tensor cotangent, Tensor x, Tensor logits, str reduction, int batch_dims, "
      "Tensor? speculative=None) -> Tensor",
      kAnyLayout);
}
AEVB_REGISTER("categorical_log_prob", forward)
AEVB_REGISTER("categorical_log_prob_speculative", speculative_values)
AEVB_REGISTER("categorical_log_prob_backward", backward)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("categorical_log_prob", TORCH_FN(autograd)); }

}  // namespace aevb
