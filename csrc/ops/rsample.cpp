#include "ops/rsample.h"

#include <ATen/ops/zeros.h>

#include "ops/common/autocast.h"
#include "ops/common/launch.h"
#include "ops/common/memory.h"
#include "ops/common/packed.h"
#include "ops/common/register.h"
#include "ops/common/spread.h"

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

// The noise goes by the logical index, which the kernels in cuda/ take for the flat one.
Order order_of(const SampleProblem& problem, const Tensor& mu, Reduction reduction) {
  if (mu.is_meta() || runs_cuda(mu.device()) || (mu.is_contiguous() && problem.logvar.is_contiguous())) return {};
  const bool one_key = problem.key.dim() == 1;
  return loop_order({mu, problem.logvar},
                    one_key ? free_dims({mu, problem.logvar}, mu, problem.event_dims, reduction) : problem.event_dims);
}

// The part of a call to the kernels that forward and backward share. The caller keeps the described tensors alive.
SampleCall call_of(const SampleProblem& problem, const Tensor& like_mu, const Order& order, Tensor& logvar,
                   Tensor& key) {
  SampleCall call = {};
  call.params.spread = problem.spread;
  set_shape(call, like_mu, problem.event_dims);
  call.samples = problem.n_samples ? problem.n_samples->expect_int() : 1;
  call.first_sample = problem.first_sample.expect_int();
  call.spread = describe(logvar, like_mu.sizes(), order);
  call.logical = logical_indices(like_mu.sizes(), order);
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
  const Order order = order_of(*this, full, reduction.value_or(Reduction::none));
  Result z(empty_elementwise(with_samples(n_samples, full.sym_sizes()), {mu, logvar}, full.options())), elements;
  Tensor kl;
  if (reduction) kl = empty_values(full, event_dims, per_element, {mu, logvar});
  if (!full.is_meta()) {
    Tensor s = logvar, k = key;
    SampleCall call = call_of(*this, full, order, s, k);
    call.mu = describe(mu, full.sizes(), order);
    call.z = z.output(n_samples ? with_outer_dim(order) : order, call.event);
    if (per_element)
      call.kl = (elements = Result(kl)).output(order, call.event);
    else if (kl.defined())
      call.kl = {kl.mutable_data_ptr(), call.wide, true};
    sample_forward(call, full.device());
    if (per_element) elements.finish();
  }
  if (reduction) kl = reduce(kl, full, event_dims, *reduction);
  return {z.finish(), kl};
}

std::tuple<Tensor, Tensor> SampleProblem::backward(Tensor z_cotangent, Tensor kl_cotangent, Tensor mu,
                                                   const Tensor& like_mu, Reduction reduction,
                                                   std::array<bool, 2> wanted, int64_t run) const {
  const Order order = order_of(*this, like_mu, reduction);
  OperandGradient dmu(like_mu, like_mu, event_dims, wanted[0] && !run, order);
  OperandGradient dlogvar(logvar, like_mu, event_dims, wanted[1] && !run, order);
  if (run) {
    const auto halves = empty_halves(logvar, run);
    dmu = {halves[0], order};
    dlogvar = {halves[1], order};
  }
  if (!like_mu.is_meta()) {
    Tensor s = logvar, k = key;
    SampleCall call = call_of(*this, like_mu, order, s, k);
    if (z_cotangent.defined()) {
      const auto sizes = z_cotangent.sizes().vec();
      call.z_cotangent = describe(z_cotangent, sizes, n_samples ? with_outer_dim(order) : order);
    }
    if (kl_cotangent.defined()) {
      kl_cotangent = over_event(kl_cotangent, like_mu, event_dims, reduction).to(wide_type(like_mu));
      call.kl_cotangent = describe(kl_cotangent, like_mu.sizes(), order);
      if (reduction == Reduction::mean) call.kl_cotangent_scale = 1.0 / double(call.rows);
      call.mu = describe(mu, like_mu.sizes(), order);
    }
    call.gradient[0] = dmu.output(call.event);
    call.gradient[1] = dlogvar.output(call.event);
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

namespace {

// The arguments of sampling and its backward, beside tensors.
struct Rsample {
  static constexpr const char *name = "Rsample", *backward_name = "aevb_ext::rsample_backward";
  Samples n_samples;
  SampleNumber first_sample;
  std::string spread;
  int64_t run = 0;                     // of mu, which is not kept, and logvar, if they are halves of one tensor
  std::optional<int64_t> packed = {};  // common/packed.h

  auto settings() const { return std::make_tuple(n_samples, first_sample, spread); }
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list paired(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

// There is no reduction here: a row is the part that has its own key; with a single key, rows only serve to distribute
// the work.
int64_t row_dims(const Tensor& mu, const Tensor& key) {
  return key.dim() > 1 ? key.dim() - 1 : std::min<int64_t>(mu.dim(), 1);
}

Tensor forward(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples, SampleNumber first_sample,
               c10::string_view spread) {
  check_sampling(mu, logvar, key, n_samples, first_sample, mu.dim());
  const SampleProblem problem = {
      logvar, key, n_samples, first_sample, parse_spread(spread), mu.dim() - row_dims(mu, key)};
  return std::get<0>(problem.forward(mu, std::nullopt));
}

std::tuple<Tensor, Tensor> gradients(const Tensor& cotangent, const Tensor& logvar, const Tensor& key,
                                     Samples n_samples, SampleNumber first_sample, Spread spread,
                                     std::array<bool, 2> wanted, int64_t run = 0) {
  const Tensor like_mu = n_samples ? cotangent.select(0, 0) : cotangent;
  const SampleProblem problem = {logvar, key, n_samples, first_sample, spread, like_mu.dim() - row_dims(like_mu, key)};
  return problem.backward(cotangent, Tensor(), Tensor(), like_mu, Reduction::none, wanted, run);
}

std::tuple<Tensor, Tensor> backward(const Tensor& cotangent, const Tensor& logvar, const Tensor& key, Samples n_samples,
                                    SampleNumber first_sample, c10::string_view spread, std::array<bool, 2> wanted,
                                    std::optional<int64_t> packed) {
  check_samples(n_samples, first_sample);
  TORCH_CHECK_VALUE(!n_samples || (cotangent.dim() > 0 && cotangent.sym_size(0) == *n_samples), "cotangent has shape ",
                    cotangent.sym_sizes(), ": expected n_samples = ", *n_samples, " as its first size");
  const Tensor like_mu = n_samples ? cotangent.select(0, 0) : cotangent;
  check_sampling(like_mu, logvar, key, n_samples, first_sample, like_mu.dim(), "cotangent");
  const Spread kind = parse_spread(spread);
  if (!packed) return gradients(cotangent, logvar, key, n_samples, first_sample, kind, wanted);
  variable_list both(2);
  if (logvar.is_cpu())
    std::tie(both[0], both[1]) = gradients(cotangent, logvar, key, n_samples, first_sample, kind, {true, true},
                                           run_of_second_half(logvar, *packed));
  pack(both, 0, logvar, *packed);
  return {both[0], both[1]};
}

variable_list Rsample::paired(const variable_list& cotangents, const variable_list& saved,
                              at::ArrayRef<bool> wanted) const {
  if (!run || !wanted[0] || !wanted[1]) return fused(cotangents, saved, wanted);
  auto [dmu, dlogvar] =
      gradients(cotangents[0], saved[0], saved[1], n_samples, first_sample, parse_spread(spread), {true, true}, run);
  return {dmu, dlogvar};
}

variable_list Rsample::fused(const variable_list& cotangents, const variable_list& saved,
                             at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::rsample_backward");
  variable_list gradients(2);
  // With one sample, mu's gradient is that of z.
  const bool as_it_is = wanted[0] && !n_samples && !packed;
  const std::array<bool, 2> computed = {wanted[0] && !as_it_is, wanted[1]};
  if (computed[0] || computed[1])
    std::tie(gradients[0], gradients[1]) =
        op.call(cotangents[0], saved[0], saved[1], n_samples, first_sample, spread, computed, packed);
  if (packed) unpack(gradients, 0, saved[0], *packed);
  if (as_it_is) gradients[0] = cotangents[0];
  return gradients;
}

variable_list Rsample::differentiable(const variable_list& cotangents, const variable_list& saved,
                                      at::ArrayRef<bool> wanted) const {
  return differentiable_sample_backward(cotangents[0], saved[0], saved[1], n_samples, first_sample,
                                        parse_spread(spread), wanted);
}

Tensor autograd(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples, SampleNumber first_sample,
                c10::string_view spread) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::rsample");
  // mu, the noise and sigma are not saved: the backward draws the noise again.
  const int64_t run = may_bypass_dispatcher({mu, logvar}) ? run_of_halves(mu, logvar) : 0;
  return record(Rsample{n_samples, first_sample, std::string(spread), run, packed_dim(mu, logvar)}, {mu, logvar},
                {logvar, key}, [&] { return op.call(mu, logvar, key, n_samples, first_sample, spread); });
}

Tensor autocast(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples, SampleNumber first_sample,
                c10::string_view spread) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::rsample");
  const WithoutAutocast guard;
  const auto [m, s] = promoted(mu, logvar);
  return op.call(m, s, key, n_samples, first_sample, spread);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("rsample(Tensor mu, Tensor logvar, Tensor key, SymInt? n_samples, SymInt first_sample, str spread) -> Tensor",
        kAnyLayout);
  m.def(
      "rsample_backward(Tensor cotangent, Tensor logvar, Tensor key, SymInt? n_samples, SymInt first_sample, "
      "str spread, bool[2] wanted, int? packed=None) -> (Tensor, Tensor)",
      kAnyLayout);
}
AEVB_REGISTER("rsample", forward)
AEVB_REGISTER("rsample_backward", backward)
AEVB_AUTOCAST("rsample", autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("rsample", TORCH_FN(autograd)); }

}  // namespace aevb
