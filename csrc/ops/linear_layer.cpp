#include "ops/linear_layer.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/record_function.h>

#include "ops/common/check.h"
#include "ops/common/launch.h"
#include "ops/common/memory.h"

#if defined(__x86_64__) && defined(__linux__)
namespace at::native {
// Exported by PyTorch without a header. Null in a version that no longer has it.
__attribute__((weak, visibility("default"))) void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result,
                                                                float beta, float alpha);
}  // namespace at::native
#endif

namespace aevb {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

namespace {

// Whether oneDNN multiplies these.
bool prefers_onednn(const Tensor& a, const Tensor& b) {
#if defined(__x86_64__) && defined(__linux__)
  // Without AVX-512, MKL withholds nothing, and PyTorch's mkldnn_matmul raises in any precision.
  static const bool mkl_is_slowed = at::hasMKL() && !__builtin_cpu_is("intel") && __builtin_cpu_supports("avx512bw") &&
                                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return mkl_is_slowed && at::globalContext().userEnabledMkldnn() && a.is_cpu() && a.scalar_type() == at::kFloat &&
         b.scalar_type() == at::kFloat && a.numel() && b.numel();
#else
  return (void)a, (void)b, false;
#endif
}

// Whether a tensor is one that the kernels for layers (call.h) take.
bool has_kernels(const Tensor& t) { return t.is_cpu() && t.scalar_type() == at::kFloat && t.is_contiguous(); }

// mkldnn::_linear_pointwise(X, W, B, attr, scalars, algorithm), if this PyTorch has it.
using LinearPointwise = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, c10::string_view,
                               c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);

const std::optional<c10::TypedOperatorHandle<LinearPointwise>>& linear_pointwise() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<LinearPointwise>> {
    auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!op || !op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
    return op->typed<LinearPointwise>();
  }();
  return found;
}

}  // namespace

Tensor activated_layer(const Tensor& x, const Tensor& w, const OptionalTensor& bias, bool tanh) {
  if (prefers_onednn(x, w) && linear_pointwise()) {
    // It reads a bias as if it were contiguous (PyTorch 2.13 and 2.14).
    const OptionalTensor numbers = bias ? OptionalTensor(bias->contiguous()) : bias;
    return linear_pointwise()->call(x, w, numbers, tanh ? "tanh" : "none", c10::List<std::optional<at::Scalar>>(), "");
  }
  if (!tanh) return at::linear(x, w, bias);
  if (!has_kernels(x)) return at::linear(x, w, bias).tanh_();
  Tensor y = empty({x.size(0), w.size(0)}, x.options());
  layer(x, w, bias.value_or(Tensor()), y, tanh);
  return y;
}

Tensor matrix_product(const Tensor& a, const Tensor& b) {
  if (!prefers_onednn(a, b)) return at::mm(a, b);
  Tensor result = at::empty({a.size(0), b.size(1)}, a.options());
  multiply(a, b, result);
  return result;
}

// Unlike oneDNN's layer, which copies a transposed x, this reads any matrix in place.
void multiply(const Tensor& a, const Tensor& b, const Tensor& result, bool add) {
#if defined(__x86_64__) && defined(__linux__)
  if (prefers_onednn(a, b) && at::native::mkldnn_matmul) {
    at::native::mkldnn_matmul(a, b, result, /*beta=*/add, /*alpha=*/1);
    return;
  }
#endif
  Tensor out = result;
  const auto wide = result.scalar_type();
  if (wide == a.scalar_type()) {
    add ? at::addmm_out(out, result, a, b) : at::mm_out(out, a, b);
  } else if (a.is_cuda()) {
    add ? at::addmm_out(out, result, a, b, wide) : at::mm_out(out, a, b, wide);
  } else if (a.scalar_type() == at::kHalf) {  // a float16 product could overflow
    multiply(a.to(wide), b.to(wide), result, add);
  } else {
    const Tensor rounded = at::mm(a, b);
    add ? out.add_(rounded) : out.copy_(rounded);
  }
}

void layer(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& result, bool tanh) {
  Tensor out = result;
  if (tanh && has_kernels(out) && (!bias.defined() || bias.is_contiguous())) {
    multiply(x, w.t(), out);
    RECORD_FUNCTION("aevb_ext::tanh", std::vector<c10::IValue>());
    const float* const added = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    cpu::activate({out.mutable_data_ptr<float>(), added, out.size(0), out.size(1)});
    return;
  }
  if (bias.defined() && !prefers_onednn(x, w)) {
    at::addmm_out(out, bias, x, w.t());
  } else {
    if (bias.defined()) out.copy_(bias);
    multiply(x, w.t(), out, /*add=*/bias.defined());
  }
  if (tanh) out.tanh_();
}

Tensor scaled(const Tensor& bytes, at::ScalarType dtype, double x_scale) {
  if (!bytes.is_cpu() || dtype != at::kFloat || !bytes.is_contiguous()) return bytes.to(dtype).mul_(x_scale);
  RECORD_FUNCTION("aevb_ext::scaled", std::vector<c10::IValue>());
  Tensor numbers = empty(bytes.sym_sizes(), bytes.options().dtype(dtype));
  const auto* const from = static_cast<const uint8_t*>(bytes.const_data_ptr());
  cpu::scale_bytes({from, numbers.mutable_data_ptr<float>(), float(x_scale), bytes.numel()});
  return numbers;
}

OutputGradient output_gradient(const Tensor& cotangent, const Tensor& y, bool with_bias) {
  OutputGradient found;
  if (!has_kernels(cotangent) || (y.defined() && !has_kernels(y))) {
    found.gradient = matrix(y.defined() ? at::tanh_backward(cotangent, y) : cotangent);
    if (with_bias) found.bias = found.gradient.sum(0);
    return found;
  }
  RECORD_FUNCTION("aevb_ext::tanh_backward", std::vector<c10::IValue>());
  const Tensor rows = matrix(cotangent);
  found.gradient = y.defined() ? empty(rows.sym_sizes(), rows.options()) : rows;
  if (with_bias) found.bias = empty({rows.size(1)}, rows.options());
  ActivationBackwardCall call = {};
  call.cotangent = rows.const_data_ptr<float>();
  if (y.defined()) call.y = y.const_data_ptr<float>(), call.gradient = found.gradient.mutable_data_ptr<float>();
  if (with_bias) call.bias_gradient = found.bias.mutable_data_ptr<float>();
  call.rows = rows.size(0);
  call.features = rows.size(1);
  if (y.defined() || with_bias) cpu::activate_backward(call);
  return found;
}

int64_t rows_per_block(int64_t row_bytes, bool on_cuda) {
  constexpr int64_t bytes = 2 << 20, bytes_cuda = 64 << 20, fewest = 512;
  return std::max(fewest, (on_cuda ? bytes_cuda : bytes) / std::max<int64_t>(row_bytes, 1));
}

std::vector<Tensor> layer_gradients(const Tensor& g, const Tensor& x, const Tensor& weight, at::ArrayRef<bool> wanted) {
  const Tensor rows = matrix(g);
  std::vector<Tensor> gradients(3);
  if (wanted[0]) gradients[0] = g.matmul(weight);
  if (wanted[1]) gradients[1] = rows.t().matmul(matrix(x));
  if (wanted[2]) gradients[2] = rows.sum(0);
  return gradients;
}

Tensor matrix(const Tensor& x) { return x.dim() == 2 ? x : x.dim() == 1 ? x.unsqueeze(0) : x.flatten(0, -2); }

void check_layer(const char* name, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  TORCH_CHECK_VALUE(weight.dim() == 2, "weight must be [out, in], got ", weight.sym_sizes());
  TORCH_CHECK_VALUE(x.dim() > 0 && x.sym_size(-1) == weight.sym_size(1), name, " must be [*, ", weight.sym_size(1),
                    "], since weight is ", weight.sym_sizes(), "; got ", x.sym_sizes());
  TORCH_CHECK_VALUE(!bias.defined() || (bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0)), "bias must be [",
                    weight.sym_size(0), "], since weight is ", weight.sym_sizes(), "; got ", bias.sym_sizes());
  TORCH_CHECK_TYPE(
      x.scalar_type() == weight.scalar_type() && (!bias.defined() || bias.scalar_type() == x.scalar_type()), name,
      ", weight and bias must be of one dtype, got ", x.scalar_type(), " and ",
      x.scalar_type() == weight.scalar_type() ? bias.scalar_type() : weight.scalar_type());
}

}  // namespace aevb
