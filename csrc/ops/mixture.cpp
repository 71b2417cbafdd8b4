// The log density of diagonal Gaussian mixtures as an operator: of each row, or of each dimension of each row. The
// reductions are sums of that, and made where it is called (aevb_ext/functional/mixture.py).
//
// The kernels take the components prepared: in panels, with 1 / sigma and the logarithm of the weight that is left of
// each. What is prepared, and what is kept for the backward, is as large as the operands and the log density.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>

#include <cmath>
#include <limits>

#include "ops/common/autocast.h"
#include "ops/common/autograd.h"
#include "ops/common/launch.h"
#include "ops/common/memory.h"
#include "ops/common/register.h"
#include "ops/common/rows.h"
#include "ops/common/spread.h"

namespace aevb {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The tensors are z, mu_k, logvar_k, logits_k (or nothing) and, in the backward, the log density.
enum : size_t { kZ, kMu, kSpread, kLogits, kLogDensity };

Tensor inverse_std_of(const Tensor& s, Spread spread) {
  switch (spread) {
    case Spread::log_std: return (-s).exp();
    case Spread::std: return s.reciprocal();
    case Spread::var: return s.rsqrt();
    default: return (-0.5 * s).exp();
  }
}

// log pi_k, in the dtype of the arithmetic.
Tensor log_shares(const Tensor& mu, const Tensor& logits) {
  if (logits.defined()) return at::log_softmax(logits.to(wide_type(mu)), 0);
  const int64_t k = mu.sym_size(0).guard_int(__FILE__, __LINE__);
  return at::full({k}, -std::log(double(k)), mu.options().dtype(wide_type(mu)));
}

// c_k (formulas/mixture.h): [K] or, of each dimension's own mixture, [K, D].
Tensor log_weights(const Tensor& mu, const Tensor& s, const Tensor& shares, Spread spread, bool factorised) {
  constexpr double log_2pi = 1.8378770664093454836;
  const Tensor log_norm = (-0.5 * (logvar_of(s, spread) + log_2pi)).expand_symint(mu.sym_sizes());
  return factorised ? shares.unsqueeze(1) + log_norm : shares + log_norm.sum(1);
}

struct MixtureLogProb {
  static constexpr const char *name = "MixtureLogProb", *operator_name = "aevb_ext::mixture_log_prob";
  std::string spread;
  bool factorised = false;

  auto settings() const { return std::make_tuple(spread, factorised); }
  void check(const variable_list& inputs) const;
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

void MixtureLogProb::check(const variable_list& inputs) const {
  const Tensor &z = inputs[kZ], &mu = inputs[kMu], &s = inputs[kSpread], &logits = inputs[kLogits];
  check_floating("z", z);
  check_floating("mu_k", mu);
  check_same_device("mu_k", mu, "z", z);
  TORCH_CHECK_TYPE(mu.scalar_type() == z.scalar_type(), "mu_k is ", mu.scalar_type(), ", but z is ", z.scalar_type(),
                   ": expected one dtype");
  TORCH_CHECK_VALUE(mu.dim() == 2, "mu_k must be [K, D], a row for each component, got shape ", mu.sym_sizes());
  TORCH_CHECK_VALUE(mu.sym_size(0) > 0, "mu_k has no component (shape ", mu.sym_sizes(), "): expected at least one");
  TORCH_CHECK_VALUE(z.dim() > 0 && z.sym_size(-1) == mu.sym_size(1), "z must be [*, ", mu.sym_size(1),
                    "], since mu_k is ", mu.sym_sizes(), "; got ", z.sym_sizes());
  check_like("logvar_k", s, "mu_k", mu);
  parse_spread(spread);
  if (!logits.defined()) return;
  check_floating("logits_k", logits);
  check_same_device("logits_k", logits, "z", z);
  TORCH_CHECK_TYPE(logits.scalar_type() == z.scalar_type(), "logits_k is ", logits.scalar_type(), ", but z is ",
                   z.scalar_type(), ": expected one dtype");
  TORCH_CHECK_VALUE(logits.dim() == 1 && logits.sym_size(0) == mu.sym_size(0), "logits_k has shape ",
                    logits.sym_sizes(), ": expected one for each of the ", mu.sym_size(0), " components of mu_k");
}

// A call to the kernels, and the tensors that it points to.
struct Mixture {
  MixtureCall call = {};
  Tensor z, mu, inverse_std, log_weight, shares;

  Mixture(const MixtureLogProb& op, const variable_list& inputs);
  // Of the kernels' sums over the rows, [parts, *as the components lie]: [K, D].
  Tensor unpacked(const Tensor& of_parts) const;

 private:
  Tensor packed(const Tensor& t, double padding) const;
  int64_t components_, dims_;
};

// [K, D] in panels, or [K] as [1, K].
Tensor Mixture::packed(const Tensor& t, double padding) const {
  const Tensor padded = at::constant_pad_nd(t.t(), {0, call.components - components_}, padding);
  if (t.dim() == 1 || call.problems == dims_) return padded.contiguous();
  return padded.view({dims_, call.components / kPanel, kPanel}).permute({1, 0, 2}).contiguous();
}

Tensor Mixture::unpacked(const Tensor& of_parts) const {
  Tensor all = of_parts.sum(0);
  if (all.dim() == 3) all = all.permute({1, 0, 2}).reshape({dims_, call.components});
  return all.narrow(1, 0, components_).t();
}

Mixture::Mixture(const MixtureLogProb& op, const variable_list& inputs)
    : components_(inputs[kMu].size(0)), dims_(inputs[kMu].size(1)) {
  const Spread spread = parse_spread(op.spread);
  const auto wide = wide_type(inputs[kZ]);
  z = inputs[kZ].to(wide).contiguous();
  call.wide = type_of(wide);
  call.rows = dims_ ? z.numel() / dims_ : 0;
  call.problems = op.factorised ? dims_ : 1;
  call.event = op.factorised ? 1 : dims_;
  call.components = (components_ + kPanel - 1) / kPanel * kPanel;
  const Tensor s = inputs[kSpread].to(wide), full = inputs[kMu].to(wide);
  shares = log_shares(inputs[kMu], inputs[kLogits]);
  mu = packed(full, 0);
  // Finite, so that it may be multiplied by 0; of what pads the components not 0, so that z may be infinite.
  const double largest = wide == at::kDouble ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  inverse_std = packed(inverse_std_of(s, spread).clamp_max(largest).expand_as(full), 1);
  log_weight = packed(log_weights(full, s, shares, spread, op.factorised), -std::numeric_limits<double>::infinity());
  call.z = z.const_data_ptr();
  call.mu = mu.const_data_ptr();
  call.inverse_std = inverse_std.const_data_ptr();
  call.log_weight = log_weight.const_data_ptr();
}

// [*batch] or [*batch, D]
c10::SymDimVector value_sizes(const Tensor& z, bool factorised) {
  const auto sizes = z.sym_sizes();
  return {sizes.begin(), sizes.end() - (factorised ? 0 : 1)};
}

Tensor forward(const Tensor& z, const Tensor& mu, const Tensor& logvar, const OptionalTensor& logits,
               c10::string_view spread, bool factorised) {
  const MixtureLogProb op{std::string(spread), factorised};
  const variable_list inputs = {z, mu, logvar, logits.value_or(Tensor())};
  op.check(inputs);
  Tensor log_density = empty(value_sizes(z, factorised), z.options().dtype(wide_type(z)));
  if (z.is_meta() || log_density.numel() == 0) return log_density;
  if (z.size(-1) == 0) return log_density.zero_();  // the density of a point
  Mixture mixture(op, inputs);
  mixture.call.log_density = log_density.mutable_data_ptr();
  mixture_forward(mixture.call, z.device());
  return log_density;
}

// The rows are shared out in parts that depend on the shapes alone: as many as give many threads something to do, but
// with sums that take no more than a few megabytes, or four times the components' own memory.
int64_t rows_per_part(const MixtureCall& call, bool with_sums) {
  constexpr int64_t most = 32, numbers = int64_t(1) << 21;
  const int64_t each = call.problems * call.components * call.event;
  const int64_t parts = with_sums ? std::clamp<int64_t>(numbers / each, 4, most) : 2 * most;
  const int64_t tiles = (call.rows + kMixtureRows - 1) / kMixtureRows;
  return std::max<int64_t>((tiles + parts - 1) / parts, with_sums ? 2 : 1) * kMixtureRows;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Gradients backward(const Tensor& cotangent, const Tensor& z, const Tensor& mu, const Tensor& logvar,
                   const OptionalTensor& logits, const Tensor& log_density, c10::string_view spread, bool factorised,
                   std::array<bool, 4> wanted) {
  const MixtureLogProb op{std::string(spread), factorised};
  const variable_list inputs = {z, mu, logvar, logits.value_or(Tensor())};
  op.check(inputs);
  const auto expected = value_sizes(z, factorised);
  for (const auto& [name, t] : {std::pair("cotangent", cotangent), std::pair("log_density", log_density)}) {
    check_floating(name, t);
    check_same_device(name, t, "z", z);
    TORCH_CHECK_VALUE(t.sym_sizes() == c10::SymIntArrayRef(expected), name, " has shape ", t.sym_sizes(),
                      ": expected that of the values, ", c10::SymIntArrayRef(expected));
  }
  variable_list gradients(4);
  for (size_t k = 0; k < inputs.size(); ++k)
    if (wanted[k] && inputs[k].defined() && (k == kZ || z.is_meta() || z.numel() == 0))
      gradients[k] = empty(inputs[k].sym_sizes(), inputs[k].options());
  const auto result = [&]() -> Gradients { return {gradients[0], gradients[1], gradients[2], gradients[3]}; };
  if (z.is_meta()) return result();
  if (z.numel() == 0) {
    for (const Tensor& gradient : gradients)
      if (gradient.defined()) gradient.zero_();
    return result();
  }
  Mixture mixture(op, inputs);
  MixtureCall& call = mixture.call;
  const auto wide = wide_type(z);
  const Tensor g = cotangent.to(wide).contiguous(), density = log_density.to(wide).contiguous();
  call.cotangent = g.const_data_ptr();
  call.log_density = const_cast<void*>(density.const_data_ptr());
  const bool with_sums = wanted[kMu] || wanted[kSpread] || wanted[kLogits];
  call.rows_per_part = rows_per_part(call, with_sums);
  call.parts = (call.rows + call.rows_per_part - 1) / call.rows_per_part;
  const auto numbers = z.options().dtype(wide);
  Tensor dz, scratch;
  if (wanted[kZ]) {
    dz = z.scalar_type() == wide ? gradients[kZ] : empty(z.sym_sizes(), numbers);
    call.dz = dz.mutable_data_ptr();
  }
  Tensor of_mu, of_logvar, of_log_weight;
  if (with_sums) {
    c10::SymDimVector sizes(mixture.mu.sym_sizes().begin(), mixture.mu.sym_sizes().end());
    sizes.insert(sizes.begin(), call.parts);
    of_mu = empty(sizes, numbers), of_logvar = empty(sizes, numbers);
    of_log_weight = empty({call.parts, call.problems, call.components}, numbers);
    call.of_mu = of_mu.mutable_data_ptr();
    call.of_logvar = of_logvar.mutable_data_ptr();
    call.of_log_weight = of_log_weight.mutable_data_ptr();
  }
  if (!runs_cuda(z.device())) {
    scratch = empty({call.parts, kMixtureRows * call.event * kPanel}, numbers);
    call.scratch = scratch.mutable_data_ptr();
  }
  mixture_backward(call, z.device());

  if (wanted[kZ] && !dz.is_same(gradients[kZ])) gradients[kZ] = narrowed(dz, z.scalar_type());
  const Spread kind = parse_spread(spread);
  const Tensor s = logvar.to(wide);
  if (wanted[kMu]) {
    const Tensor dmu = product(mixture.unpacked(of_mu), inverse_std_of(s, kind));
    gradients[kMu] = narrowed(dmu, mu.scalar_type()).contiguous();
  }
  if (wanted[kSpread]) {
    const Tensor dv = times_slope(0.5 * mixture.unpacked(of_logvar), s, kind);
    gradients[kSpread] = as_operand(dv, logvar).contiguous();
  }
  if (wanted[kLogits] && logits) {
    const Tensor total = of_log_weight.sum(at::IntArrayRef{0, 1}).narrow(0, 0, mu.size(0));
    gradients[kLogits] = narrowed(total - mixture.shares.exp() * total.sum(), logits->scalar_type());
  }
  return result();
}

variable_list MixtureLogProb::fused(const variable_list& cotangents, const variable_list& saved,
                                    at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::mixture_log_prob_backward");
  auto [dz, dmu, dlogvar, dlogits] =
      op.call(cotangents[0], saved[kZ], saved[kMu], saved[kSpread], optional(saved[kLogits]), saved[kLogDensity],
              spread, factorised, {wanted[0], wanted[1], wanted[2], wanted[3]});
  return {dz, dmu, dlogvar, dlogits};
}

// The formulas of formulas/mixture.h. They hold what the kernels do not, numbers for all rows, components and
// dimensions: a graph of the backward keeps its operations' operands.
variable_list MixtureLogProb::differentiable(const variable_list& cotangents, const variable_list& saved,
                                             at::ArrayRef<bool> wanted) const {
  const Tensor &z = saved[kZ], &mu = saved[kMu], &logits = saved[kLogits];
  const Spread kind = parse_spread(spread);
  const auto wide = wide_type(z);
  const Tensor s = saved[kSpread].to(wide), m = mu.to(wide), shares = log_shares(mu, logits);
  const Tensor inverse_std = inverse_std_of(s, kind), c = log_weights(m, s, shares, kind, factorised);
  const c10::SymInt dims = z.sym_size(-1), count = c10::multiply_integers(z.sym_sizes().slice(0, z.dim() - 1));
  const Tensor rows = z.to(wide).reshape_symint({count, 1, dims});
  const Tensor g = cotangents[0].to(wide).reshape_symint({count, 1, factorised ? dims : c10::SymInt(1)});
  Tensor t = product(rows - m, inverse_std);  // [rows, K, D]
  const Tensor q = factorised ? t * t : (t * t).sum(2, /*keepdim=*/true);
  const Tensor a = (factorised ? c : c.unsqueeze(1)) - 0.5 * q;
  const Tensor log_density = a.logsumexp(1, /*keepdim=*/true);
  const Tensor w = g * (a - log_density).exp().masked_fill(log_density.abs() == INFINITY, 0);
  t = t.masked_fill(w == 0, 0);  // it may be infinite there
  const Tensor of_mean = product(w * t, inverse_std);
  variable_list gradients(4);
  if (wanted[kZ]) gradients[kZ] = narrowed(-of_mean.sum(1).reshape_symint(z.sym_sizes()), z.scalar_type());
  if (wanted[kMu]) gradients[kMu] = narrowed(of_mean.sum(0), mu.scalar_type());
  if (wanted[kSpread])
    gradients[kSpread] = as_operand(times_slope(0.5 * (w * (t * t - 1)).sum(0), s, kind), saved[kSpread]);
  if (wanted[kLogits] && logits.defined()) {
    const Tensor total = w.sum(at::IntArrayRef{0, 2});
    gradients[kLogits] = narrowed(total - shares.exp() * total.sum(), logits.scalar_type());
  }
  return gradients;
}

// The log density is kept for the backward: as a tensor of its own, so that the graph does not hold itself.
Tensor autograd(const Tensor& z, const Tensor& mu, const Tensor& logvar, const OptionalTensor& logits,
                c10::string_view spread, bool factorised) {
  static auto op = find_operator<decltype(forward)>(MixtureLogProb::operator_name);
  const variable_list inputs = {z, mu, logvar, logits.value_or(Tensor())};
  Tensor log_density, kept;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    log_density = op.call(z, mu, logvar, logits, spread, factorised);
    kept = log_density.detach();
  }
  variable_list saved = inputs;
  saved.push_back(kept);
  return record(MixtureLogProb{std::string(spread), factorised}, inputs, saved, [&] { return log_density; });
}

Tensor autocast(const Tensor& z, const Tensor& mu, const Tensor& logvar, const OptionalTensor& logits,
                c10::string_view spread, bool factorised) {
  static auto op = find_operator<decltype(forward)>(MixtureLogProb::operator_name);
  const WithoutAutocast guard;
  const auto [all_z, m, s, l] = promoted(z, mu, logvar, logits.value_or(Tensor()));
  return op.call(all_z, m, s, optional(l), spread, factorised);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def(
      "mixture_log_prob(Tensor z, Tensor mu_k, Tensor logvar_k, Tensor? logits_k, str spread, bool factorised) -> "
      "Tensor");
  m.def(
      "mixture_log_prob_backward(Tensor cotangent, Tensor z, Tensor mu_k, Tensor logvar_k, Tensor? logits_k, "
      "Tensor log_density, str spread, bool factorised, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)");
}
AEVB_REGISTER("mixture_log_prob", forward)
AEVB_REGISTER("mixture_log_prob_backward", backward)
AEVB_AUTOCAST("mixture_log_prob", autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("mixture_log_prob", TORCH_FN(autograd)); }

}  // namespace aevb
