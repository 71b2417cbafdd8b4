#include <ATen/ops/sigmoid.h>

#include "ops/autograd.h"
#include "ops/register.h"
#include "ops/rows.h"

namespace aevb {
namespace {

using at::Tensor;

// What log p(x | logits) and its backward are called with, beside tensors.
struct BernoulliLogProb {
  static constexpr const char *name = "BernoulliLogProb", *operator_name = "aevb_ext::bernoulli_log_prob";
  double x_scale = 1;
  std::string reduction;
  int64_t batch_dims = 1;

  void check(const variable_list& inputs) const {
    const Tensor &x = inputs[0], &logits = inputs[1];
    check_floating("logits", logits);
    check_data("x", x);
    check_same_device("x", x, "logits", logits);
    check_batch_dims(batch_dims, "x", x);
    check_broadcasts("x", x, "logits", logits);
  }
  RowProblem problem(const variable_list& inputs) const {
    return {Formula::bernoulli, {x_scale, {}}, inputs, 1, inputs[0].dim() - batch_dims, parse_reduction(reduction)};
  }
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

Tensor forward(const Tensor& x, const Tensor& logits, double x_scale, c10::string_view reduction, int64_t batch_dims) {
  const BernoulliLogProb op{x_scale, std::string(reduction), batch_dims};
  op.check({x, logits});
  return row_values(op.problem({x, logits}));
}

std::tuple<Tensor, Tensor> backward(const Tensor& cotangent, const Tensor& x, const Tensor& logits, double x_scale,
                                    c10::string_view reduction, int64_t batch_dims, std::array<bool, 2> wanted) {
  const BernoulliLogProb op{x_scale, std::string(reduction), batch_dims};
  auto gradients = row_gradients(op.problem({x, logits}), cotangent, wanted);
  return {gradients[0], gradients[1]};
}

variable_list BernoulliLogProb::fused(const variable_list& cotangents, const variable_list& saved,
                                      at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::bernoulli_log_prob_backward");
  auto [dx, dlogits] =
      op.call(cotangents[0], saved[0], saved[1], x_scale, reduction, batch_dims, {wanted[0], wanted[1]});
  return {dx, dlogits};
}

variable_list BernoulliLogProb::differentiable(const variable_list& cotangents, const variable_list& saved,
                                               at::ArrayRef<bool> wanted) const {
  const Tensor &x = saved[0], &logits = saved[1];
  const Tensor g = differentiable_cotangent(cotangents[0], logits, x.dim() - batch_dims, parse_reduction(reduction));
  const Tensor l = logits.to(wide_type(logits));
  variable_list gradients(2);
  if (wanted[0]) gradients[0] = as_operand(g * l * x_scale, x);
  if (wanted[1]) gradients[1] = as_operand(g * (x * x_scale - at::sigmoid(l)), logits);
  return gradients;
}

Tensor autograd(const Tensor& x, const Tensor& logits, double x_scale, c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>(BernoulliLogProb::operator_name);
  return record(BernoulliLogProb{x_scale, std::string(reduction), batch_dims}, {x, logits}, {x, logits},
                [&] { return op.call(x, logits, x_scale, reduction, batch_dims); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("bernoulli_log_prob(Tensor x, Tensor logits, float x_scale, str reduction, int batch_dims) -> Tensor");
  m.def(
      "bernoulli_log_prob_backward(Tensor cotangent, Tensor x, Tensor logits, float x_scale, str reduction, "
      "int batch_dims, bool[2] wanted) -> (Tensor, Tensor)");
}
AEVB_REGISTER("bernoulli_log_prob", forward)
AEVB_REGISTER("bernoulli_log_prob_backward", backward)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("bernoulli_log_prob", TORCH_FN(autograd)); }

}  // namespace aevb
