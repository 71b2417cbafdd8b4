// A layer y = act(x W^T + b) as an operator. x may be bytes, which are scaled and cast a block of rows at a time:
// neither the forward nor the backward has all of them in floats.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tanh.h>

#include "ops/common/autograd.h"
#include "ops/common/check.h"
#include "ops/common/register.h"
#include "ops/linear_layer.h"

namespace aevb {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor scaled(const Tensor& bytes, const Tensor& weight, double x_scale) {
  return aevb::scaled(bytes, weight.scalar_type(), x_scale);
}

// Rows of bytes that are converted to floats at a time.
int64_t rows_of_bytes(const Tensor& x, const Tensor& weight) {
  return rows_per_block(x.size(-1) * weight.element_size(), /*on_cuda=*/false);
}

// Calls body(first row, number of rows, the converted rows) for blocks of the matrix x.
template <class Body>
void for_each_scaled_block(const Tensor& x, const Tensor& weight, double x_scale, const Body& body) {
  const int64_t most = rows_of_bytes(x, weight);
  for (int64_t first = 0; first < x.size(0); first += most) {
    const int64_t rows = std::min(most, x.size(0) - first);
    body(first, rows, scaled(x.narrow(0, first, rows), weight, x_scale));
  }
}

bool in_blocks(const Tensor& x, const Tensor& weight) {
  return x.is_cpu() && x.numel() > x.size(-1) * rows_of_bytes(x, weight);
}

Tensor activated_bytes(const Tensor& x, const Tensor& w, const OptionalTensor& bias, bool tanh, double x_scale) {
  if (!in_blocks(x, w)) return activated_layer(scaled(x, w, x_scale), w, bias, tanh);
  Tensor y = at::empty({x.size(0), w.size(0)}, w.options());
  for_each_scaled_block(x, w, x_scale, [&](int64_t first, int64_t rows, const Tensor& floats) {
    layer(floats, w, bias.value_or(Tensor()), y.narrow(0, first, rows), tanh);
  });
  return y;
}

Tensor weight_gradient_of_bytes(const Tensor& g, const Tensor& x, const Tensor& weight, double x_scale) {
  if (!in_blocks(x, weight)) return matrix_product(g.t(), scaled(x, weight, x_scale));
  Tensor result = at::empty(weight.sizes(), weight.options());
  for_each_scaled_block(x, weight, x_scale, [&](int64_t first, int64_t rows, const Tensor& floats) {
    multiply(g.narrow(0, first, rows).t(), floats, result, /*add=*/first > 0);
  });
  return result;
}

struct Linear {
  static constexpr const char* name = "Linear";
  bool tanh = false;
  double x_scale = 1;

  auto settings() const { return std::make_tuple(tanh, x_scale); }
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

c10::SymDimVector output_sizes(const Tensor& x, const Tensor& weight) {
  const auto sizes = x.sym_sizes();
  c10::SymDimVector result(sizes.begin(), sizes.end());
  result.back() = weight.sym_size(0);
  return result;
}

// A tensor with the shape, dtype and device of the layer's output.
void check_of_output(const char* name, const Tensor& t, const Tensor& x, const Tensor& weight) {
  check_same_device(name, t, "weight", weight);
  TORCH_CHECK_TYPE(t.scalar_type() == weight.scalar_type(), name, " is ", t.scalar_type(), ", but weight is ",
                   weight.scalar_type(), ": expected one dtype");
  const auto expected = output_sizes(x, weight);
  TORCH_CHECK_VALUE(t.sym_sizes() == c10::SymIntArrayRef(expected), name, " has shape ", t.sym_sizes(),
                    ": expected that of the layer's output, ", c10::SymIntArrayRef(expected));
}

bool is_bytes(const Tensor& x) { return x.scalar_type() == at::kByte || x.scalar_type() == at::kBool; }

void check(const Tensor& x, const Tensor& weight, const Tensor& bias, double x_scale) {
  const bool bytes = is_bytes(x);
  TORCH_CHECK_VALUE(bytes || x_scale == 1, "x_scale is of bytes and truth values, got ", x_scale, " with x of ",
                    x.scalar_type());
  check_same_device("weight", weight, "x", x);
  if (bias.defined()) check_same_device("bias", bias, "x", x);
  // Bytes count as the floats that they become.
  check_layer("x", bytes ? at::empty({1}, weight.options()).expand_symint(x.sym_sizes()) : x, weight, bias);
}

Tensor computed(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool tanh, double x_scale) {
  const Tensor y = is_bytes(x) ? activated_bytes(matrix(x), weight, bias, tanh, x_scale)
                               : activated_layer(matrix(x), weight, bias, tanh);
  return x.dim() == 2 ? y : y.view_symint(output_sizes(x, weight));
}

Tensor forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool tanh, double x_scale) {
  check(x, weight, bias.value_or(Tensor()), x_scale);
  return computed(x, weight, bias, tanh, x_scale);
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& cotangent, const Tensor& x, const Tensor& weight,
                                            const OptionalTensor& y, std::array<bool, 3> wanted, double x_scale) {
  check(x, weight, Tensor(), x_scale);
  check_of_output("cotangent", cotangent, x, weight);
  if (y) check_of_output("y", *y, x, weight);
  const auto [g, dbias] = output_gradient(cotangent, y.value_or(Tensor()), wanted[2]);
  Tensor dx, dweight;
  if (wanted[0]) {
    dx = matrix_product(g, weight);
    if (x.dim() != 2) dx = dx.view_symint(x.sym_sizes());
  }
  if (wanted[1])
    dweight = is_bytes(x) ? weight_gradient_of_bytes(g, matrix(x), weight, x_scale) : matrix_product(g.t(), matrix(x));
  return {dx, dweight, dbias};
}

// Saved are x, weight, bias (or nothing) and, with tanh, y.
variable_list Linear::fused(const variable_list& cotangents, const variable_list& saved,
                            at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::linear_backward");
  const auto y = tanh ? OptionalTensor(saved[3]) : std::nullopt;
  const std::array<bool, 3> three = {wanted[0], wanted[1], wanted[2]};
  if (cotangents[0].is_cpu() && may_bypass_dispatcher(saved) && may_bypass_dispatcher(cotangents)) {
    RECORD_FUNCTION("aevb_ext::linear_backward", std::vector<c10::IValue>());
    at::AutoDispatchBelowADInplaceOrView below;
    auto [dx, dweight, dbias] = backward(cotangents[0], saved[0], saved[1], y, three, x_scale);
    return {dx, dweight, dbias};
  }
  auto [dx, dweight, dbias] = op.call(cotangents[0], saved[0], saved[1], y, three, x_scale);
  return {dx, dweight, dbias};
}

variable_list Linear::differentiable(const variable_list& cotangents, const variable_list& saved,
                                     at::ArrayRef<bool> wanted) const {
  const Tensor &weight = saved[1], &bias = saved[2];
  const Tensor x = is_bytes(saved[0]) ? saved[0].to(weight.scalar_type()) * x_scale : saved[0];
  Tensor g = cotangents[0];
  if (tanh) {
    // Compute y again, now as a differentiable function of its inputs.
    const Tensor y = at::linear(x, weight, bias.defined() ? OptionalTensor(bias) : std::nullopt).tanh();
    g = g * (1 - y * y);
  }
  return layer_gradients(g, x, weight, wanted);
}

Tensor autograd(const Tensor& given, const Tensor& weight, const OptionalTensor& bias, bool tanh, double x_scale) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::linear");
  const bool direct = given.is_cpu() && may_bypass_dispatcher({given, weight, bias.value_or(Tensor())});
  Tensor x = given;
  const Tensor y = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    if (!direct) return op.call(x, weight, bias, tanh, x_scale);
    RECORD_FUNCTION("aevb_ext::linear", std::vector<c10::IValue>());
    check(x, weight, bias.value_or(Tensor()), x_scale);
    if (is_bytes(x) && at::GradMode::is_enabled() && weight.requires_grad() && !in_blocks(x, weight)) {
      // So few floats are kept for the backward, which would convert the bytes again.
      x = scaled(x.contiguous(), weight, x_scale);
      x_scale = 1;
    }
    return computed(x, weight, bias, tanh, x_scale);
  }();
  // Saving y itself would make a reference cycle with the node. The alias shares y's version counter.
  const Tensor y_alias = [&] {
    at::AutoDispatchBelowAutograd below;
    return tanh ? y.detach() : Tensor();
  }();
  const Tensor b = bias.value_or(Tensor());
  return record(Linear{tanh, x_scale}, {x, weight, b}, {x, weight, b, y_alias}, [&] { return y; });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, bool tanh, float x_scale=1.0) -> Tensor");
  m.def(
      "linear_backward(Tensor cotangent, Tensor x, Tensor weight, Tensor? y, bool[3] wanted, float "
      "x_scale=1.0) -> (Tensor, Tensor, Tensor)");
}
AEVB_REGISTER("linear", forward)
AEVB_REGISTER("linear_backward", backward)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("linear", TORCH_FN(autograd)); }

}  // namespace aevb
