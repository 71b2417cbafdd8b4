// The Bernoulli log-likelihood as an operator over rows, for either parameterisation, which is a struct Parameter:
//   static constexpr const char *argument, *node_name, *operator_name, *speculative_name, *backward_name;
//   static constexpr Formula formula;
//   static Tensor by_data(const Tensor& parameter);               d log p / dx
//   static Tensor by_parameter(const Tensor& x, const Tensor& parameter);
// The derivatives have to be differentiable themselves. Parameter may also have producer_edge and
// gives_producer_gradient (common/autograd.h), and
//   static Tensor producer_gradient(const Tensor& cotangent, const Tensor& x, const Tensor& parameter,
//                                 const Tensor& by_parameter);
#pragma once
#include <ATen/ops/sigmoid.h>

#include "ops/common/autograd.h"
#include "ops/common/rows.h"

namespace aevb {

template <class Parameter>
concept HasProducerGradient = requires { &Parameter::producer_gradient; };

// The arguments of log p(x | parameter) and its backward, beside tensors.
template <class Parameter>
struct BernoulliLogProb {
  static constexpr const char *name = Parameter::node_name, *operator_name = Parameter::operator_name;
  double x_scale = 1;
  std::string reduction;
  int64_t batch_dims = 1;

  auto settings() const { return std::make_tuple(x_scale, reduction, batch_dims); }
  void check(const variable_list& inputs) const {
    const at::Tensor &x = inputs[0], &parameter = inputs[1];
    check_floating(Parameter::argument, parameter);
    check_data("x", x);
    check_same_device("x", x, Parameter::argument, parameter);
    check_batch_dims(batch_dims, "x", x);
    check_broadcasts("x", x, Parameter::argument, parameter);
  }
  RowProblem problem(const variable_list& inputs) const {
    return {Parameter::formula, {x_scale, {}}, inputs, 1, inputs[0].dim() - batch_dims, parse_reduction(reduction)};
  }
  std::tuple<at::Tensor, at::Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const at::Tensor& speculative = {}) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;

  torch::autograd::Edge producer_edge(const torch::autograd::Node& node, const variable_list& inputs) const
    requires HasProducerGradient<Parameter>
  {
    return Parameter::producer_edge(node, inputs[1]);
  }
  bool gives_producer_gradient(const torch::autograd::Node& node) const
    requires HasProducerGradient<Parameter>
  {
    return Parameter::gives_producer_gradient(node);
  }
  at::Tensor producer_gradient(const variable_list& cotangents, const variable_list& saved,
                               variable_list& gradients) const
    requires HasProducerGradient<Parameter>
  {
    const at::Tensor &x = saved[0], &given = saved[1], parameter = given.to(wide_type(given));
    const auto kind = parse_reduction(reduction);
    return Parameter::producer_gradient(differentiable_cotangent(cotangents[0], given, x.dim() - batch_dims, kind),
                                        x.to(parameter.scalar_type()) * x_scale, parameter, gradients[1]);
  }
};

template <class Parameter>
at::Tensor bernoulli_forward(const at::Tensor& x, const at::Tensor& parameter, double x_scale,
                             c10::string_view reduction, int64_t batch_dims) {
  const BernoulliLogProb<Parameter> op{x_scale, std::string(reduction), batch_dims};
  op.check({x, parameter});
  return row_values(op.problem({x, parameter}));
}

template <class Parameter>
std::tuple<at::Tensor, at::Tensor> bernoulli_speculative(const at::Tensor& x, const at::Tensor& parameter,
                                                         double x_scale, c10::string_view reduction, int64_t batch_dims,
                                                         std::array<bool, 2> wanted) {
  const BernoulliLogProb<Parameter> op{x_scale, std::string(reduction), batch_dims};
  return speculative_forward(op, {x, parameter}, wanted);
}

template <class Parameter>
std::tuple<at::Tensor, at::Tensor> bernoulli_backward(const at::Tensor& cotangent, const at::Tensor& x,
                                                      const at::Tensor& parameter, double x_scale,
                                                      c10::string_view reduction, int64_t batch_dims,
                                                      std::array<bool, 2> wanted,
                                                      const std::optional<at::Tensor>& speculative) {
  const BernoulliLogProb<Parameter> op{x_scale, std::string(reduction), batch_dims};
  const auto gradients = gradients_in_graph(op, cotangent, {x, parameter}, wanted, speculative);
  return {gradients[0], gradients[1]};
}

template <class Parameter>
std::tuple<at::Tensor, at::Tensor> BernoulliLogProb<Parameter>::speculative(const variable_list& saved,
                                                                            at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(bernoulli_speculative<Parameter>)>(Parameter::speculative_name);
  return op.call(saved[0], saved[1], x_scale, reduction, batch_dims, {wanted[0], wanted[1]});
}

template <class Parameter>
variable_list BernoulliLogProb<Parameter>::fused(const variable_list& cotangents, const variable_list& saved,
                                                 at::ArrayRef<bool> wanted, const at::Tensor& speculative) const {
  static auto op = find_operator<decltype(bernoulli_backward<Parameter>)>(Parameter::backward_name);
  auto [dx, dparameter] = op.call(cotangents[0], saved[0], saved[1], x_scale, reduction, batch_dims,
                                  {wanted[0], wanted[1]}, optional(speculative));
  return {dx, dparameter};
}

template <class Parameter>
variable_list BernoulliLogProb<Parameter>::differentiable(const variable_list& cotangents, const variable_list& saved,
                                                          at::ArrayRef<bool> wanted) const {
  const at::Tensor &x = saved[0], &given = saved[1];
  const at::Tensor g = differentiable_cotangent(cotangents[0], given, x.dim() - batch_dims, parse_reduction(reduction));
  const at::Tensor parameter = given.to(wide_type(given));
  variable_list gradients(2);
  if (wanted[0]) gradients[0] = as_operand(g * Parameter::by_data(parameter) * x_scale, x);
  if (wanted[1]) {
    const at::Tensor target = x.to(parameter.scalar_type()) * x_scale;
    gradients[1] = as_operand(g * Parameter::by_parameter(target, parameter), given);
  }
  return gradients;
}

template <class Parameter>
at::Tensor bernoulli_autograd(const at::Tensor& x, const at::Tensor& parameter, double x_scale,
                              c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(bernoulli_forward<Parameter>)>(Parameter::operator_name);
  return record(BernoulliLogProb<Parameter>{x_scale, std::string(reduction), batch_dims}, {x, parameter},
                {x, parameter}, [&] { return op.call(x, parameter, x_scale, reduction, batch_dims); });
}

// l, the decoder's last layer: p = sigmoid(l)
struct Logits {
  static constexpr const char *argument = "logits", *node_name = "BernoulliLogProb",
                              *operator_name = "aevb_ext::bernoulli_log_prob",
                              *speculative_name = "aevb_ext::bernoulli_log_prob_speculative",
                              *backward_name = "aevb_ext::bernoulli_log_prob_backward";
  static constexpr Formula formula = Formula::bernoulli;

  static at::Tensor by_data(const at::Tensor& l) { return l; }
  static at::Tensor by_parameter(const at::Tensor& x, const at::Tensor& l) { return x - at::sigmoid(l); }
};

}  // namespace aevb
