// The bound (estimator B) of a whole model, the paper's: an encoder and a decoder of two layers each, with tanh between
// them, and Bernoulli data. It is the composition of this library's operators. On the CPU, for a minibatch of so few
// rows that its calls take as long as a good part of its arithmetic, the composition is one node of the graph: it calls
// what the operators call, in the same order, to the same bits.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/tanh.h>

#include "ops/bernoulli.h"
#include "ops/common/launch.h"
#include "ops/common/register.h"
#include "ops/gaussian_kl.h"
#include "ops/linear_layer.h"
#include "ops/rsample.h"

namespace aevb {
namespace {

using at::Tensor;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using LogProb = BernoulliLogProb<Logits>;

// The parameters are the weight and the bias of each layer. Beside them are saved:
constexpr size_t kParameters = 8;
enum Saved : size_t { kBytes = kParameters, kX, kKey, kHidden, kPacked, kZ, kDecoderHidden, kLogits };

Tensor half(const Tensor& packed, int64_t which) {
  const int64_t size = packed.size(1) / 2;
  return packed.narrow(1, which * size, size);
}

SampleProblem sampling(const Tensor& packed, const Tensor& key) {
  return {half(packed, 1), key, std::nullopt, 0, Spread::logvar, 1};
}

struct MlpBound {
  static constexpr const char* name = "MlpBound";
  double x_scale = 1;
  // Of the logits, computed with the value.
  std::shared_ptr<SpeculativeGradient> speculative = {};

  auto settings() const { return std::make_tuple(x_scale); }
  LogProb likelihood() const { return {x_scale, "sample", 1}; }
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

// The cotangents of the likelihood and of the KL, from those of bound = likelihood - KL, likelihood and KL.
std::tuple<Tensor, Tensor> of_terms(const variable_list& cotangents) {
  const auto& [bound, likelihood, kl] = std::tie(cotangents[0], cotangents[1], cotangents[2]);
  const auto sum = [](const Tensor& a, const Tensor& b) {
    return a.defined() && b.defined() ? a + b : a.defined() ? a : b;
  };
  return {sum(bound, likelihood), sum(bound.defined() ? at::neg(bound) : bound, kl)};
}

variable_list MlpBound::fused(const variable_list& cotangents, const variable_list& saved,
                              at::ArrayRef<bool> wanted) const {
  if (!may_bypass_dispatcher(saved) || !may_bypass_dispatcher(cotangents))
    return differentiable(cotangents, saved, wanted);
  RECORD_FUNCTION("aevb_ext::mlp_bound_backward", std::vector<c10::IValue>());
  at::AutoDispatchBelowADInplaceOrView below;
  const auto [of_likelihood, of_kl] = of_terms(cotangents);
  variable_list gradients(kParameters);
  // Those of a layer's parameters, and of its input.
  const auto through = [&](size_t layer, const Tensor& cotangent, const Tensor& y, const Tensor& input,
                           bool with_input = true) {
    const size_t weight = 2 * layer, bias = weight + 1;
    const auto [g, of_bias] = output_gradient(cotangent, y, wanted[bias]);
    Tensor of_input;
    if (with_input) of_input = matrix_product(g, saved[weight]);
    if (wanted[weight]) gradients[weight] = matrix_product(g.t(), input);
    gradients[bias] = of_bias;
    return of_input;
  };
  Tensor of_z;
  if (of_likelihood.defined()) {
    constexpr bool of_logits[] = {false, true};
    auto ahead = speculative ? speculative->take(of_likelihood, of_logits) : std::nullopt;
    if (!ahead) ahead = row_gradients(likelihood().problem({saved[kBytes], saved[kLogits]}), of_likelihood, of_logits);
    const Tensor of_hidden = through(3, (*ahead)[1], Tensor(), saved[kDecoderHidden]);
    of_z = through(2, of_hidden, saved[kDecoderHidden], saved[kZ]);
  }
  const Tensor &packed = saved[kPacked], mu = half(packed, 0);
  const int64_t run = run_of_halves(mu, half(packed, 1));
  const auto [of_mu, of_logvar] =
      sampling(packed, saved[kKey]).backward(of_z, of_kl, mu, mu, Reduction::sample, {true, true}, run);
  const Tensor of_packed =
      run ? of_mu.as_strided(packed.sizes(), packed.strides(), of_mu.storage_offset()) : at::cat({of_mu, of_logvar}, 1);
  const Tensor of_hidden = through(1, of_packed, Tensor(), saved[kHidden]);
  through(0, of_hidden, saved[kHidden], saved[kX], /*with_input=*/false);
  return gradients;
}

variable_list MlpBound::differentiable(const variable_list& cotangents, const variable_list& saved,
                                       at::ArrayRef<bool> wanted) const {
  static auto rsample =
      find_operator<Tensor(const Tensor&, const Tensor&, const Tensor&, Samples, SampleNumber, c10::string_view)>(
          "aevb_ext::rsample");
  // Compute everything again, now as differentiable functions of the parameters.
  const auto [of_likelihood, of_kl] = of_terms(cotangents);
  const auto layer = [&](size_t k, const Tensor& input) { return at::linear(input, saved[2 * k], saved[2 * k + 1]); };
  const Tensor &x = saved[kX], &key = saved[kKey], hidden = layer(0, x).tanh(), packed = layer(1, hidden);
  const auto halves = packed.chunk(2, 1);
  const Tensor &mu = halves[0], &logvar = halves[1];
  variable_list gradients(kParameters);
  const auto through = [&](size_t k, const Tensor& g, const Tensor& input) {
    const auto three = layer_gradients(g, input, saved[2 * k], {k > 0, bool(wanted[2 * k]), bool(wanted[2 * k + 1])});
    gradients[2 * k] = three[1];
    gradients[2 * k + 1] = three[2];
    return three[0];
  };
  const auto before_tanh = [](const Tensor& g, const Tensor& y) { return g * (1 - y * y); };
  variable_list of_halves(2);
  if (of_likelihood.defined()) {
    const Tensor z = rsample.call(mu, logvar, key, std::nullopt, 0, "logvar");
    const Tensor decoder_hidden = layer(2, z).tanh(), logits = layer(3, decoder_hidden);
    const Tensor of_logits = likelihood().differentiable({of_likelihood}, {saved[kBytes], logits}, {{false, true}})[1];
    const Tensor of_z = through(2, before_tanh(through(3, of_logits, decoder_hidden), decoder_hidden), z);
    of_halves = differentiable_sample_backward(of_z, logvar, key, std::nullopt, 0, Spread::logvar, {{true, true}});
  }
  if (of_kl.defined()) {
    const auto too = differentiable_kl_backward(of_kl, {mu, logvar, Tensor(), Tensor()}, "logvar", "sample", 1,
                                                {{true, true, false, false}});
    for (int i = 0; i < 2; ++i) of_halves[i] = of_halves[i].defined() ? of_halves[i] + too[i] : too[i];
  }
  through(0, before_tanh(through(1, at::cat({of_halves[0], of_halves[1]}, 1), hidden), hidden), x);
  return gradients;
}

// Whether it is one node: plain tensors of the CPU that fit together, and few rows.
bool is_one_node(const Tensor& x, const Tensor& key, at::TensorList parameters) {
  if (!x.is_cpu() || runs_cuda(x.device()) || x.dim() != 2 || x.requires_grad()) return false;
  variable_list all(parameters.begin(), parameters.end());
  all.push_back(x);
  all.push_back(key);
  if (!may_bypass_dispatcher(all) || !x.numel()) return false;
  const bool bytes = x.scalar_type() == at::kByte || x.scalar_type() == at::kBool;
  int64_t size = x.size(1);
  for (size_t layer = 0; layer < kParameters / 2; ++layer) {
    const Tensor &weight = parameters[2 * layer], &bias = parameters[2 * layer + 1];
    for (const Tensor& t : {weight, bias})
      if (!t.is_cpu() || t.scalar_type() != at::kFloat || !t.is_contiguous() || !t.numel()) return false;
    if (weight.dim() != 2 || bias.dim() != 1 || weight.size(0) != bias.size(0) || weight.size(1) != size) return false;
    size = weight.size(0);
    if (layer == 1) {
      if (size % 2) return false;
      size /= 2;
    }
  }
  return (bytes || x.scalar_type() == at::kFloat) && size == x.size(1) && key.is_cpu() &&
         key.scalar_type() == at::kLong && key.dim() == 2 && key.size(0) == x.size(0) && key.size(1) == 2 &&
         x.size(0) <= rows_per_block(size * int64_t(sizeof(float)), /*on_cuda=*/false);
}

Three one_node(const Tensor& given, const Tensor& key, at::TensorList parameters, double x_scale) {
  bool learns = false;
  if (at::GradMode::is_enabled())
    for (const Tensor& parameter : parameters) learns = learns || parameter.requires_grad();
  MlpBound op{x_scale};
  variable_list saved(parameters.begin(), parameters.end());
  const auto terms = [&]() -> Three {
    at::AutoDispatchBelowADInplaceOrView below;
    RECORD_FUNCTION("aevb_ext::mlp_bound", std::vector<c10::IValue>());
    const auto layer = [&](size_t k, const Tensor& input, bool tanh) {
      return activated_layer(input, parameters[2 * k], parameters[2 * k + 1], tanh);
    };
    const bool bytes = !given.is_floating_point();
    const Tensor x = bytes          ? scaled(given.contiguous(), at::kFloat, x_scale)
                     : x_scale == 1 ? given
                                    : at::mul(given, x_scale);
    const Tensor hidden = layer(0, x, true), packed = layer(1, hidden, false);
    const auto [z, kl] = sampling(packed, key).forward(half(packed, 0), Reduction::sample);
    const Tensor decoder_hidden = layer(2, z, true), logits = layer(3, decoder_hidden, false);
    const auto problem = op.likelihood().problem({given, logits});
    std::optional<Tensor> likelihood;
    if (learns) {
      op.speculative = std::make_shared<SpeculativeGradient>();
      likelihood = op.speculative->compute(problem, {{false, true}}, /*paired=*/false);
    }
    if (!likelihood) likelihood = row_values(problem);
    saved.insert(saved.end(), {given, x, key, hidden, packed, z, decoder_hidden, logits});
    return {*likelihood - kl, *likelihood, kl};
  }();
  return record(op, {parameters.begin(), parameters.end()}, saved, [&] { return terms; });
}

Three mlp_bound(const Tensor& x, const Tensor& key, at::TensorList parameters, double x_scale) {
  TORCH_CHECK_VALUE(parameters.size() == kParameters, "parameters must be ", kParameters,
                    ", the weight and the bias of four layers, got ", parameters.size());
  if (is_one_node(x, key, parameters)) return one_node(x, key, parameters, x_scale);
  static auto linear = find_operator<Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, bool, double)>(
      "aevb_ext::linear");
  static auto halves = find_operator<std::tuple<Tensor, Tensor>(const Tensor&, int64_t)>("aevb_ext::halves");
  static auto rsample_kl =
      find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, Samples, SampleNumber,
                                               c10::string_view, c10::string_view, int64_t)>("aevb_ext::rsample_kl");
  static auto log_prob = find_operator<Tensor(const Tensor&, const Tensor&, double, c10::string_view, int64_t)>(
      "aevb_ext::bernoulli_log_prob");
  const auto layer = [&](size_t k, const Tensor& input, bool tanh, double scale = 1) {
    return linear.call(input, parameters[2 * k], parameters[2 * k + 1], tanh, scale);
  };
  const bool floats = x.is_floating_point() && x_scale != 1;
  const Tensor hidden = layer(0, floats ? at::mul(x, x_scale) : x, true, x.is_floating_point() ? 1 : x_scale);
  const auto [mu, logvar] = halves.call(layer(1, hidden, false), 1);
  const auto [z, kl] = rsample_kl.call(mu, logvar, key, std::nullopt, 0, "logvar", "sample", 1);
  const Tensor logits = layer(3, layer(2, z, true), false);
  const Tensor likelihood = log_prob.call(x, logits, x_scale, "sample", 1);
  return {likelihood - kl, likelihood, kl};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("mlp_bound(Tensor x, Tensor key, Tensor[] parameters, float x_scale) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(aevb_ext, CompositeImplicitAutograd, m) { m.impl("mlp_bound", TORCH_FN(mlp_bound)); }

}  // namespace aevb
