// An elementwise log-likelihood log p(x | parameters) as an operator over rows. A Likelihood is a struct with these
// members:
// - AEVB_NAMES("poisson", "Poisson"): what its operators are called.
// - `argument`: what the user calls the choice between its parameterisations.
// - `count`: how many parameters it has. The first has the whole shape; x and the others broadcast to it.
// - `forms`: its parameterisations.
// - `derivatives(form, in, wanted)`: those of log p by x and the parameters (`in`, x scaled), for the backward of a
//   backward. They are differentiable operations of PyTorch, in float64, whose digits make up for those that such plain
//   formulas cancel.
#pragma once
#include <array>
#include <utility>

#include "ops/common/autocast.h"
#include "ops/common/autograd.h"
#include "ops/common/register.h"
#include "ops/common/rows.h"

namespace aevb {

// A parameterisation: its formula, and the names of the parameters.
struct Form {
  const char* name;
  Formula formula;
  Spread spread;
  std::array<const char*, 3> parameters;
};

using Tensors = std::vector<at::Tensor>;

#define AEVB_NAMES(function, node)                                                               \
  static constexpr const char *node_name = node "LogProb", *name = function "_log_prob",         \
                              *operator_name = "aevb_ext::" function "_log_prob",                \
                              *speculative_name = "aevb_ext::" function "_log_prob_speculative", \
                              *backward_name = "aevb_ext::" function "_log_prob_backward";

// The arguments beside tensors.
template <class Likelihood>
struct LogProb {
  static constexpr const char *name = Likelihood::node_name, *operator_name = Likelihood::operator_name;
  static constexpr size_t operands = Likelihood::count + 1;
  std::string form;
  double x_scale = 1;
  std::string reduction;
  int64_t batch_dims = 1;

  auto settings() const { return std::make_tuple(form, x_scale, reduction, batch_dims); }

  const Form& parameterisation() const {
    for (const Form& one : Likelihood::forms)
      if (form == one.name) return one;
    std::string known;
    for (const Form& one : Likelihood::forms) {
      known += known.empty() ? "\"" : " or \"";
      known.append(one.name).append("\"");
    }
    TORCH_CHECK_VALUE(false, Likelihood::argument, " must be ", known, ", got \"", form, "\"");
  }
  void check(const variable_list& in) const {
    const auto& names = parameterisation().parameters;
    check_floating(names[0], in[1]);
    check_counts("x", in[0]);
    check_same_device("x", in[0], names[0], in[1]);
    for (size_t k = 2; k < operands; ++k) check_like(names[k - 1], in[k], names[0], in[1]);
    check_batch_dims(batch_dims, "x", in[0]);
    check_broadcasts("x", in[0], names[0], in[1]);
  }
  RowProblem problem(const variable_list& in) const {
    const Form& of = parameterisation();
    return {of.formula, {x_scale, of.spread}, in, 1, in[0].dim() - batch_dims, parse_reduction(reduction)};
  }
  std::tuple<at::Tensor, at::Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const at::Tensor& speculative = {}) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const {
    const at::Tensor &x = saved[0], &full = saved[1];
    const at::Tensor g =
        differentiable_cotangent(cotangents[0], full, x.dim() - batch_dims, parse_reduction(reduction));
    Tensors in = {x.to(at::kDouble) * x_scale};
    for (size_t k = 1; k < operands; ++k) in.push_back(saved[k].to(at::kDouble));
    const variable_list derivatives = Likelihood::derivatives(parameterisation(), in, wanted);
    variable_list gradients(operands);
    for (size_t k = 0; k < operands; ++k)
      if (wanted[k]) gradients[k] = as_operand(k ? g * derivatives[k] : g * derivatives[k] * x_scale, saved[k]);
    return gradients;
  }
};

template <size_t>
using Operand = at::Tensor;

// The operators, whose signatures have one tensor for each parameter.
template <class Likelihood, class = std::make_index_sequence<Likelihood::count>>
struct LogProbOperators;
template <class Likelihood, size_t... k>
struct LogProbOperators<Likelihood, std::index_sequence<k...>> {
  using Op = LogProb<Likelihood>;
  using Wanted = std::array<bool, Op::operands>;

  static at::Tensor forward(const at::Tensor& x, const Operand<k>&... of, c10::string_view form, double x_scale,
                            c10::string_view reduction, int64_t batch_dims) {
    const Op op{std::string(form), x_scale, std::string(reduction), batch_dims};
    op.check({x, of...});
    return row_values(op.problem({x, of...}));
  }
  static std::tuple<at::Tensor, at::Tensor> speculative(const at::Tensor& x, const Operand<k>&... of,
                                                        c10::string_view form, double x_scale,
                                                        c10::string_view reduction, int64_t batch_dims, Wanted wanted) {
    const Op op{std::string(form), x_scale, std::string(reduction), batch_dims};
    return speculative_forward(op, {x, of...}, wanted);
  }
  static std::tuple<at::Tensor, Operand<k>...> backward(const at::Tensor& cotangent, const at::Tensor& x,
                                                        const Operand<k>&... of, c10::string_view form, double x_scale,
                                                        c10::string_view reduction, int64_t batch_dims, Wanted wanted,
                                                        const std::optional<at::Tensor>& speculative) {
    const Op op{std::string(form), x_scale, std::string(reduction), batch_dims};
    const auto gradients = gradients_in_graph(op, cotangent, {x, of...}, wanted, speculative);
    return {gradients[0], gradients[k + 1]...};
  }
  static at::Tensor autograd(const at::Tensor& x, const Operand<k>&... of, c10::string_view form, double x_scale,
                             c10::string_view reduction, int64_t batch_dims) {
    static auto op = find_operator<decltype(forward)>(Likelihood::operator_name);
    return record(Op{std::string(form), x_scale, std::string(reduction), batch_dims}, {x, of...}, {x, of...},
                  [&] { return op.call(x, of..., form, x_scale, reduction, batch_dims); });
  }
  // x keeps its dtype: every data dtype is accepted with every dtype of the parameters.
  static at::Tensor autocast(const at::Tensor& x, const Operand<k>&... of, c10::string_view form, double x_scale,
                             c10::string_view reduction, int64_t batch_dims) {
    static auto op = find_operator<decltype(forward)>(Likelihood::operator_name);
    const WithoutAutocast guard;
    const auto all = promoted(of...);
    return op.call(x, all[k]..., form, x_scale, reduction, batch_dims);
  }

  static std::tuple<at::Tensor, at::Tensor> call_speculative(const Op& settings, const variable_list& in,
                                                             at::ArrayRef<bool> wanted) {
    static auto op = find_operator<decltype(speculative)>(Likelihood::speculative_name);
    return op.call(in[0], in[k + 1]..., settings.form, settings.x_scale, settings.reduction, settings.batch_dims,
                   {wanted[0], wanted[k + 1]...});
  }
  static variable_list call_backward(const Op& settings, const at::Tensor& cotangent, const variable_list& in,
                                     at::ArrayRef<bool> wanted, const at::Tensor& speculative) {
    static auto op = find_operator<decltype(backward)>(Likelihood::backward_name);
    const auto gradients = op.call(cotangent, in[0], in[k + 1]..., settings.form, settings.x_scale, settings.reduction,
                                   settings.batch_dims, {wanted[0], wanted[k + 1]...}, optional(speculative));
    return {std::get<0>(gradients), std::get<k + 1>(gradients)...};
  }

  static void define(torch::Library& m) {
    const std::string name = Likelihood::name, operands = std::string("Tensor x") + (tensor(k) + ...),
                      settings = ", str form, float x_scale, str reduction, int batch_dims",
                      wanted = ", bool[" + std::to_string(Op::operands) + "] wanted";
    const auto schema = [&](const std::string& text) { m.def(text.c_str(), kAnyLayout); };
    schema(name + "(" + operands + settings + ") -> Tensor");
    schema(name + "_speculative(" + operands + settings + wanted + ") -> (Tensor, Tensor)");
    schema(name + "_backward(Tensor cotangent, " + operands + settings + wanted +
           ", Tensor? speculative=None) -> (Tensor" + (gradient(k) + ...) + ")");
  }

 private:
  static std::string tensor(size_t i) { return std::string(", Tensor ") + Likelihood::forms[0].parameters[i]; }
  static std::string gradient(size_t) { return ", Tensor"; }
};

template <class Likelihood>
std::tuple<at::Tensor, at::Tensor> LogProb<Likelihood>::speculative(const variable_list& saved,
                                                                    at::ArrayRef<bool> wanted) const {
  return LogProbOperators<Likelihood>::call_speculative(*this, saved, wanted);
}
template <class Likelihood>
variable_list LogProb<Likelihood>::fused(const variable_list& cotangents, const variable_list& saved,
                                         at::ArrayRef<bool> wanted, const at::Tensor& speculative) const {
  return LogProbOperators<Likelihood>::call_backward(*this, cotangents[0], saved, wanted, speculative);
}

// Defines and registers the operators of a Likelihood, whose name is `function`.
#define AEVB_LOG_PROB(function, Likelihood)                                                  \
  TORCH_LIBRARY_FRAGMENT(aevb_ext, m) { LogProbOperators<Likelihood>::define(m); }           \
  AEVB_REGISTER(function "_log_prob", LogProbOperators<Likelihood>::forward)                 \
  AEVB_REGISTER(function "_log_prob_speculative", LogProbOperators<Likelihood>::speculative) \
  AEVB_REGISTER(function "_log_prob_backward", LogProbOperators<Likelihood>::backward)       \
  AEVB_AUTOCAST(function "_log_prob", LogProbOperators<Likelihood>::autocast)                \
  TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) {                                                \
    m.impl(function "_log_prob", TORCH_FN(LogProbOperators<Likelihood>::autograd));          \
  }

}  // namespace aevb
