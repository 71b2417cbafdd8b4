#include "ops/sampling.h"

#include <ATen/ops/zeros.h>

#include "ops/halves.h"
#include "ops/launch.h"
#include "ops/memory.h"
#include "ops/spread.h"

namespace aevb {

using at::Tensor;

void check_sampling(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples,
                    SampleNumber first_sample, int64_t batch_dims, const char* name) {
  check_floating(name, mu);
  check_like("logvar", logvar, name, mu);
  check_key(key, mu, batch_dims, name);
  check_samples(n_samples, first_sample);
}

c10::SymDimVector with_samples(Samples n_samples, c10::SymIntArrayRef sizes) {
  c10::SymDimVector all(sizes.begin(), sizes.end());
  if (n_samples) all.insert(all.begin(), *n_samples);
  return all;
}

namespace {

// What forward and backward tell the kernels alike. Tensors that are described are kept alive by the caller.
SampleCall call_of(const SampleProblem& problem, const Tensor& like_mu, Tensor& logvar, Tensor& key) {
  SampleCall call = {};
  call.params.spread = problem.spread;
  set_shape(call, like_mu, problem.event_dims);
  call.samples = problem.n_samples ? problem.n_samples->expect_int() : 1;
  call.first_sample = problem.first_sample.expect_int();
  call.spread = describe(logvar, like_mu.sizes());
  key = key.contiguous();
  call.key = key.const_data_ptr<int64_t>();
  call.key_rows = call.rows / std::max<int64_t>(key.numel() / 2, 1);
  const int64_t most = std::numeric_limits<int64_t>::max() / std::max<int64_t>(call.key_rows * call.event, 1);
  TORCH_CHECK_VALUE(call.first_sample <= most - call.samples, "first_sample must be at most ", most - call.samples,
                    ", so that the numbers of the noise are below 2^63, got ", call.first_sample);
  return call;
}

}  // namespace

std::tuple<Tensor, Tensor> SampleProblem::forward(Tensor mu, std::optional<Reduction> reduction) const {
  const Tensor full = mu;
  const bool per_element = reduction == Reduction::none;
  Tensor z = empty(with_samples(n_samples, full.sym_sizes()), full.options()), kl;
  if (reduction) kl = empty_values(full, event_dims, per_element);
  if (!full.is_meta()) {
    Tensor s = logvar, k = key;
    SampleCall call = call_of(*this, full, s, k);
    call.mu = describe(mu, full.sizes());
    call.z = {z.mutable_data_ptr(), type_of(z.scalar_type()), false};
    if (kl.defined()) call.kl = {kl.mutable_data_ptr(), call.wide, !per_element};
    sample_forward(call, full.device());
  }
  if (reduction) kl = reduce(kl, full, event_dims, *reduction);
  return {z, kl};
}

std::tuple<Tensor, Tensor> SampleProblem::backward(Tensor z_cotangent, Tensor kl_cotangent, Tensor mu,
                                                   const Tensor& like_mu, Reduction reduction,
                                                   std::array<bool, 2> wanted, bool paired) const {
  OperandGradient dmu(like_mu, like_mu, event_dims, wanted[0] && !paired);
  OperandGradient dlogvar(logvar, like_mu, event_dims, wanted[1] && !paired);
  if (paired) {
    const int64_t event = c10::multiply_integers(logvar.sizes().slice(logvar.dim() - event_dims));
    const auto halves = empty_halves(logvar, event);
    dmu = {halves[0], event};
    dlogvar = {halves[1], event};
  }
  if (!like_mu.is_meta()) {
    Tensor s = logvar, k = key;
    SampleCall call = call_of(*this, like_mu, s, k);
    if (z_cotangent.defined()) {
      const auto sizes = z_cotangent.sizes().vec();
      call.z_cotangent = describe(z_cotangent, sizes);
    }
    if (kl_cotangent.defined()) {
      kl_cotangent = over_event(kl_cotangent, like_mu, event_dims, reduction).to(wide_type(like_mu));
      call.kl_cotangent = describe(kl_cotangent, like_mu.sizes());
      if (reduction == Reduction::mean) call.kl_cotangent_scale = 1.0 / double(call.rows);
      call.mu = describe(mu, like_mu.sizes());
    }
    call.gradient[0] = dmu.output();
    call.gradient[1] = dlogvar.output();
    sample_backward(call, like_mu.device());
  }
  return {dmu.finish(like_mu, event_dims), dlogvar.finish(like_mu, event_dims)};
}

variable_list differentiable_sample_backward(const Tensor& z_cotangent, const Tensor& logvar, const Tensor& key,
                                             Samples n_samples, SampleNumber first_sample, Spread spread,
                                             at::ArrayRef<bool> wanted) {
  using Rsample = Tensor(const Tensor&, const Tensor&, const Tensor&, Samples, SampleNumber, c10::string_view);
  static auto rsample = find_operator<Rsample>("aevb_ext::rsample");
  const auto wide = wide_type(logvar);
  auto sizes = z_cotangent.sym_sizes();
  if (n_samples) sizes = sizes.slice(1);
  const auto over_samples = [&](const Tensor& t) { return n_samples ? t.sum(0) : t; };
  const Tensor g = z_cotangent.to(wide), s = logvar.to(wide);
  variable_list gradients(2);
  if (wanted[0]) gradients[0] = narrowed(over_samples(g), z_cotangent.scalar_type());
  if (wanted[1]) {
    const Tensor zero = at::zeros_symint(sizes, g.options());
    const Tensor eps = rsample.call(zero, zero, key, n_samples, first_sample, "logvar");
    const Tensor half_std = 0.5 * (0.5 * logvar_of(s, spread)).exp();
    gradients[1] = as_operand(over_samples(g * eps) * times_slope(half_std, s, spread), logvar);
  }
  return gradients;
}

}  // namespace aevb
