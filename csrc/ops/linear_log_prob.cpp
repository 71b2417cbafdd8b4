// The likelihoods of a decoder's last linear layer (linear_rows.h) as operators.
#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/sigmoid.h>

#include "ops/bernoulli.h"
#include "ops/common/autocast.h"
#include "ops/common/register.h"
#include "ops/gaussian.h"
#include "ops/linear_layer.h"
#include "ops/linear_rows.h"

namespace aevb {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The arguments of the operators and their backwards, beside tensors. The tensors are x, h, weight, bias (or nothing)
// and, for a Gaussian, logvar (or nothing).
struct LinearLogProb {
  Formula formula = Formula::bernoulli;
  double x_scale = 1;
  std::string reduction;
  int64_t batch_dims = 1;

  auto settings() const { return std::make_tuple(int64_t(formula), x_scale, reduction, batch_dims); }
  void check(const variable_list& inputs) const;
  LinearRows problem(const variable_list& inputs) const {
    const Tensor logvar = inputs.size() > 4 ? inputs[4] : Tensor();
    return {
        formula,   x_scale, parse_reduction(reduction), inputs[0].dim() - batch_dims, inputs[0], inputs[1], inputs[2],
        inputs[3], logvar};
  }
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

void LinearLogProb::check(const variable_list& inputs) const {
  const Tensor &x = inputs[0], &h = inputs[1], &weight = inputs[2], &bias = inputs[3];
  check_floating("h", h);
  check_data("x", x);
  check_same_device("x", x, "h", h);
  check_same_device("weight", weight, "h", h);
  if (bias.defined()) check_same_device("bias", bias, "h", h);
  check_layer("h", h, weight, bias);
  const LinearRows rows = problem(inputs);
  TORCH_CHECK_VALUE(weight.sym_size(0) % rows.heads() == 0, "weight has ", weight.sym_size(0),
                    " rows, which has no halves (means and log variances): expected an even number, or logvar");
  TORCH_CHECK_VALUE(0 <= batch_dims && batch_dims < x.dim(), "batch_dims must be from 0 to ", x.dim() - 1,
                    ", so that x (shape ", x.sym_sizes(), ") has the layer's output as its event, got ", batch_dims);
  const Tensor output = rows.shape_of();
  check_broadcasts("x", x, "the layer's output", output);
  if (!rows.logvar.defined()) return;
  check_floating("logvar", rows.logvar);
  check_same_device("logvar", rows.logvar, "h", h);
  TORCH_CHECK_TYPE(rows.logvar.scalar_type() == h.scalar_type() || rows.logvar.scalar_type() == wide_type(h),
                   "logvar is ", rows.logvar.scalar_type(), ", but h is ", h.scalar_type(),
                   ": expected one dtype, or float32 beside a half");
  const auto sizes = rows.logvar.sym_sizes();
  TORCH_CHECK_VALUE(sizes.empty() || (sizes.size() == 1 && (sizes[0] == 1 || sizes[0] == output.sym_size(-1))),
                    "logvar has shape ", sizes, ": expected one number, or one for each of the ", output.sym_size(-1),
                    " outputs of the layer");
}

// The two-step form: the gradient of the layer's output, in the type of the arithmetic, and from it those of the layer.
variable_list LinearLogProb::differentiable(const variable_list& cotangents, const variable_list& saved,
                                            at::ArrayRef<bool> wanted) const {
  const LinearRows rows = problem(saved);
  const Tensor y = at::linear(rows.h, rows.weight, rows.bias.defined() ? OptionalTensor(rows.bias) : std::nullopt)
                       .to(wide_type(rows.h));
  variable_list of_rows;
  Tensor dy;
  if (formula == Formula::bernoulli) {
    const BernoulliLogProb<Logits> op{x_scale, reduction, batch_dims};
    of_rows = op.differentiable(cotangents, {rows.x, y}, {{wanted[0], true}});
    dy = of_rows[1];
  } else {
    const bool one_head = rows.logvar.defined();
    const auto heads = one_head ? std::vector<Tensor>{y, rows.logvar} : y.chunk(2, -1);
    const bool sigmoid = formula == Formula::gaussian_of_sigmoid;
    const Tensor mu = sigmoid ? at::sigmoid(heads[0]) : heads[0];
    const GaussianLogProb op{"logvar", x_scale, reduction, batch_dims};
    of_rows = op.differentiable(cotangents, {rows.x, mu, heads[1]}, {{wanted[0], true, !one_head || wanted[4]}});
    dy = sigmoid ? of_rows[1] * mu * (1 - mu) : of_rows[1];
    if (!one_head) dy = at::cat({dy, of_rows[2]}, -1);
  }
  variable_list gradients = {of_rows[0]};
  dy = narrowed(dy, rows.h.scalar_type());
  for (auto& gradient : layer_gradients(dy, rows.h, rows.weight, wanted.slice(1, 3))) gradients.push_back(gradient);
  if (rows.logvar.defined()) gradients.push_back(of_rows[2]);
  gradients.resize(wanted.size());
  return gradients;
}

Tensor values(const LinearLogProb& op, const variable_list& inputs) {
  op.check(inputs);
  return row_values(op.problem(inputs));
}

// The layer is cast like nn.Linear, and the likelihood stays in float32.
class Cast {
 public:
  explicit Cast(const Tensor& h)
      : device_(h.device().type()), dtype_(at::autocast::get_autocast_dtype(h.device().type())) {}
  Tensor operator()(const Tensor& t) const { return at::autocast::cached_cast(dtype_, t, device_); }
  OptionalTensor operator()(const OptionalTensor& t) const { return at::autocast::cached_cast(dtype_, t, device_); }

 private:
  WithoutAutocast off_;
  c10::DeviceType device_;
  at::ScalarType dtype_;
};

struct LinearBernoulli : LinearLogProb {
  static constexpr const char *name = "LinearBernoulliLogProb", *operator_name = "aevb_ext::linear_bernoulli_log_prob";
  LinearBernoulli() = default;
  LinearBernoulli(double x_scale, c10::string_view reduction, int64_t batch_dims)
      : LinearLogProb{Formula::bernoulli, x_scale, std::string(reduction), batch_dims} {}
  std::tuple<Tensor, Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const Tensor& speculative = {}) const;
};

Tensor bernoulli(const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias, double x_scale,
                 c10::string_view reduction, int64_t batch_dims) {
  return values(LinearBernoulli(x_scale, reduction, batch_dims), {x, h, weight, bias.value_or(Tensor())});
}

std::tuple<Tensor, Tensor> bernoulli_values_speculative(const Tensor& x, const Tensor& h, const Tensor& weight,
                                                        const OptionalTensor& bias, double x_scale,
                                                        c10::string_view reduction, int64_t batch_dims,
                                                        std::array<bool, 4> wanted) {
  const LinearBernoulli op(x_scale, reduction, batch_dims);
  return speculative_forward(op, {x, h, weight, bias.value_or(Tensor())}, wanted);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> bernoulli_gradients(const Tensor& cotangent, const Tensor& x,
                                                               const Tensor& h, const Tensor& weight,
                                                               const OptionalTensor& bias, double x_scale,
                                                               c10::string_view reduction, int64_t batch_dims,
                                                               std::array<bool, 4> wanted,
                                                               const OptionalTensor& speculative) {
  const LinearBernoulli op(x_scale, reduction, batch_dims);
  const auto g = gradients_in_graph(op, cotangent, {x, h, weight, bias.value_or(Tensor())}, wanted, speculative);
  return {g[0], g[1], g[2], g[3]};
}

std::tuple<Tensor, Tensor> LinearBernoulli::speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const {
  static auto op =
      find_operator<decltype(bernoulli_values_speculative)>("aevb_ext::linear_bernoulli_log_prob_speculative");
  return op.call(saved[0], saved[1], saved[2], optional(saved[3]), x_scale, reduction, batch_dims,
                 {wanted[0], wanted[1], wanted[2], wanted[3]});
}

variable_list LinearBernoulli::fused(const variable_list& cotangents, const variable_list& saved,
                                     at::ArrayRef<bool> wanted, const Tensor& speculative) const {
  static auto op = find_operator<decltype(bernoulli_gradients)>("aevb_ext::linear_bernoulli_log_prob_backward");
  auto [dx, dh, dweight, dbias] =
      op.call(cotangents[0], saved[0], saved[1], saved[2], optional(saved[3]), x_scale, reduction, batch_dims,
              {wanted[0], wanted[1], wanted[2], wanted[3]}, optional(speculative));
  return {dx, dh, dweight, dbias};
}

Tensor bernoulli_recorded(const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
                          double x_scale, c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(bernoulli)>(LinearBernoulli::operator_name);
  const variable_list inputs = {x, h, weight, bias.value_or(Tensor())};
  return record(LinearBernoulli(x_scale, reduction, batch_dims), inputs, inputs,
                [&] { return op.call(x, h, weight, bias, x_scale, reduction, batch_dims); });
}

Tensor bernoulli_autocast(const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
                          double x_scale, c10::string_view reduction, int64_t batch_dims) {
  static auto op = find_operator<decltype(bernoulli)>(LinearBernoulli::operator_name);
  const Cast cast(h);
  return op.call(x, cast(h), cast(weight), cast(bias), x_scale, reduction, batch_dims);
}

struct LinearGaussian : LinearLogProb {
  static constexpr const char *name = "LinearGaussianLogProb", *operator_name = "aevb_ext::linear_gaussian_log_prob";
  LinearGaussian() = default;
  LinearGaussian(bool sigmoid, double x_scale, c10::string_view reduction, int64_t batch_dims)
      : LinearLogProb{sigmoid ? Formula::gaussian_of_sigmoid : Formula::gaussian, x_scale, std::string(reduction),
                      batch_dims} {}
  std::tuple<Tensor, Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted,
                      const Tensor& speculative = {}) const;
};

Tensor gaussian(const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
                const OptionalTensor& logvar, bool sigmoid, double x_scale, c10::string_view reduction,
                int64_t batch_dims) {
  return values(LinearGaussian(sigmoid, x_scale, reduction, batch_dims),
                {x, h, weight, bias.value_or(Tensor()), logvar.value_or(Tensor())});
}

std::tuple<Tensor, Tensor> gaussian_values_speculative(const Tensor& x, const Tensor& h, const Tensor& weight,
                                                       const OptionalTensor& bias, const OptionalTensor& logvar,
                                                       bool sigmoid, double x_scale, c10::string_view reduction,
                                                       int64_t batch_dims, std::array<bool, 5> wanted) {
  const LinearGaussian op(sigmoid, x_scale, reduction, batch_dims);
  return speculative_forward(op, {x, h, weight, bias.value_or(Tensor()), logvar.value_or(Tensor())}, wanted);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gaussian_gradients(
    const Tensor& cotangent, const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
    const OptionalTensor& logvar, bool sigmoid, double x_scale, c10::string_view reduction, int64_t batch_dims,
    std::array<bool, 5> wanted, const OptionalTensor& speculative) {
  const LinearGaussian op(sigmoid, x_scale, reduction, batch_dims);
  const variable_list inputs = {x, h, weight, bias.value_or(Tensor()), logvar.value_or(Tensor())};
  const auto g = gradients_in_graph(op, cotangent, inputs, wanted, speculative);
  return {g[0], g[1], g[2], g[3], g[4]};
}

std::tuple<Tensor, Tensor> LinearGaussian::speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const {
  static auto op =
      find_operator<decltype(gaussian_values_speculative)>("aevb_ext::linear_gaussian_log_prob_speculative");
  return op.call(saved[0], saved[1], saved[2], optional(saved[3]), optional(saved[4]),
                 formula == Formula::gaussian_of_sigmoid, x_scale, reduction, batch_dims,
                 {wanted[0], wanted[1], wanted[2], wanted[3], wanted[4]});
}

variable_list LinearGaussian::fused(const variable_list& cotangents, const variable_list& saved,
                                    at::ArrayRef<bool> wanted, const Tensor& speculative) const {
  static auto op = find_operator<decltype(gaussian_gradients)>("aevb_ext::linear_gaussian_log_prob_backward");
  auto [dx, dh, dweight, dbias, dlogvar] =
      op.call(cotangents[0], saved[0], saved[1], saved[2], optional(saved[3]), optional(saved[4]),
              formula == Formula::gaussian_of_sigmoid, x_scale, reduction, batch_dims,
              {wanted[0], wanted[1], wanted[2], wanted[3], wanted[4]}, optional(speculative));
  return {dx, dh, dweight, dbias, dlogvar};
}

Tensor gaussian_recorded(const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
                         const OptionalTensor& logvar, bool sigmoid, double x_scale, c10::string_view reduction,
                         int64_t batch_dims) {
  static auto op = find_operator<decltype(gaussian)>(LinearGaussian::operator_name);
  const variable_list inputs = {x, h, weight, bias.value_or(Tensor()), logvar.value_or(Tensor())};
  return record(LinearGaussian(sigmoid, x_scale, reduction, batch_dims), inputs, inputs,
                [&] { return op.call(x, h, weight, bias, logvar, sigmoid, x_scale, reduction, batch_dims); });
}

Tensor gaussian_autocast(const Tensor& x, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
                         const OptionalTensor& logvar, bool sigmoid, double x_scale, c10::string_view reduction,
                         int64_t batch_dims) {
  static auto op = find_operator<decltype(gaussian)>(LinearGaussian::operator_name);
  const Cast cast(h);
  return op.call(x, cast(h), cast(weight), cast(bias), logvar, sigmoid, x_scale, reduction, batch_dims);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def(
      "linear_bernoulli_log_prob(Tensor x, Tensor h, Tensor weight, Tensor? bias, float x_scale, str reduction, "
      "int batch_dims) -> Tensor");
  m.def(
      "linear_bernoulli_log_prob_speculative(Tensor x, Tensor h, Tensor weight, Tensor? bias, float x_scale, "
      "str reduction, int batch_dims, bool[4] wanted) -> (Tensor, Tensor)");
  m.def(
      "linear_bernoulli_log_prob_backward(Tensor cotangent, Tensor x, Tensor h, Tensor weight, Tensor? bias, "
      "float x_scale, str reduction, int batch_dims, bool[4] wanted, Tensor? speculative=None) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "linear_gaussian_log_prob(Tensor x, Tensor h, Tensor weight, Tensor? bias, Tensor? logvar, bool sigmoid, "
      "float x_scale, str reduction, int batch_dims) -> Tensor");
  m.def(
      "linear_gaussian_log_prob_speculative(Tensor x, Tensor h, Tensor weight, Tensor? bias, Tensor? logvar, "
      "bool sigmoid, float x_scale, str reduction, int batch_dims, bool[5] wanted) -> (Tensor, Tensor)");
  m.def(
      "linear_gaussian_log_prob_backward(Tensor cotangent, Tensor x, Tensor h, Tensor weight, Tensor? bias, "
      "Tensor? logvar, bool sigmoid, float x_scale, str reduction, int batch_dims, bool[5] wanted, "
      "Tensor? speculative=None) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor)");
}
AEVB_REGISTER("linear_bernoulli_log_prob", bernoulli)
AEVB_REGISTER("linear_bernoulli_log_prob_speculative", bernoulli_values_speculative)
AEVB_REGISTER("linear_bernoulli_log_prob_backward", bernoulli_gradients)
AEVB_AUTOCAST("linear_bernoulli_log_prob", bernoulli_autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("linear_bernoulli_log_prob", TORCH_FN(bernoulli_recorded)); }
AEVB_REGISTER("linear_gaussian_log_prob", gaussian)
AEVB_REGISTER("linear_gaussian_log_prob_speculative", gaussian_values_speculative)
AEVB_REGISTER("linear_gaussian_log_prob_backward", gaussian_gradients)
AEVB_AUTOCAST("linear_gaussian_log_prob", gaussian_autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("linear_gaussian_log_prob", TORCH_FN(gaussian_recorded)); }

}  // namespace aevb
