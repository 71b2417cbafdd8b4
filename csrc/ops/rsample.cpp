#include "ops/autocast.h"
#include "ops/halves.h"
#include "ops/register.h"
#include "ops/sampling.h"

namespace aevb {
namespace {

using at::Tensor;

// What sampling and its backward are called with, beside tensors.
struct Rsample {
  static constexpr const char *name = "Rsample", *backward_name = "aevb_ext::rsample_backward";
  Samples n_samples;
  SampleNumber first_sample;
  std::string spread;
  bool of_halves = false;  // mu, which is not kept, and logvar are halves of one tensor

  auto settings() const { return std::make_tuple(n_samples, first_sample, spread); }
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list paired(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

// There is no reduction here: rows are what has a key of its own, and with one key they are there only so that work can
// be shared out.
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
                                     std::array<bool, 2> wanted, bool paired) {
  const Tensor like_mu = n_samples ? cotangent.select(0, 0) : cotangent;
  const SampleProblem problem = {logvar, key, n_samples, first_sample, spread, like_mu.dim() - row_dims(like_mu, key)};
  return problem.backward(cotangent, Tensor(), Tensor(), like_mu, Reduction::none, wanted, paired);
}

std::tuple<Tensor, Tensor> backward(const Tensor& cotangent, const Tensor& logvar, const Tensor& key, Samples n_samples,
                                    SampleNumber first_sample, c10::string_view spread, std::array<bool, 2> wanted) {
  check_samples(n_samples, first_sample);
  TORCH_CHECK_VALUE(!n_samples || (cotangent.dim() > 0 && cotangent.sym_size(0) == *n_samples), "cotangent has shape ",
                    cotangent.sym_sizes(), ": expected n_samples = ", *n_samples, " as its first size");
  const Tensor like_mu = n_samples ? cotangent.select(0, 0) : cotangent;
  check_sampling(like_mu, logvar, key, n_samples, first_sample, like_mu.dim(), "cotangent");
  return gradients(cotangent, logvar, key, n_samples, first_sample, parse_spread(spread), wanted, false);
}

variable_list Rsample::paired(const variable_list& cotangents, const variable_list& saved,
                              at::ArrayRef<bool> wanted) const {
  if (!of_halves || !wanted[0] || !wanted[1]) return fused(cotangents, saved, wanted);
  auto [dmu, dlogvar] =
      gradients(cotangents[0], saved[0], saved[1], n_samples, first_sample, parse_spread(spread), {true, true}, true);
  return {dmu, dlogvar};
}

variable_list Rsample::fused(const variable_list& cotangents, const variable_list& saved,
                             at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::rsample_backward");
  variable_list gradients(2);
  // One sample's gradient goes to mu as it is.
  const bool as_it_is = wanted[0] && !n_samples;
  const std::array<bool, 2> computed = {wanted[0] && n_samples, wanted[1]};
  if (computed[0] || computed[1])
    std::tie(gradients[0], gradients[1]) =
        op.call(cotangents[0], saved[0], saved[1], n_samples, first_sample, spread, computed);
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
  // Neither mu nor the noise nor sigma is kept: the backward draws the noise again.
  const int64_t rows = row_dims(mu, key);
  const bool of_halves = may_look_ahead({mu, logvar}) && rows <= mu.dim() &&
                         are_halves(mu, logvar, c10::multiply_integers(mu.sizes().slice(rows)));
  return record(Rsample{n_samples, first_sample, std::string(spread), of_halves}, {mu, logvar}, {logvar, key},
                [&] { return op.call(mu, logvar, key, n_samples, first_sample, spread); });
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
  m.def("rsample(Tensor mu, Tensor logvar, Tensor key, SymInt? n_samples, SymInt first_sample, str spread) -> Tensor");
  m.def(
      "rsample_backward(Tensor cotangent, Tensor logvar, Tensor key, SymInt? n_samples, SymInt first_sample, "
      "str spread, bool[2] wanted) -> (Tensor, Tensor)");
}
AEVB_REGISTER("rsample", forward)
AEVB_REGISTER("rsample_backward", backward)
AEVB_AUTOCAST("rsample", autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("rsample", TORCH_FN(autograd)); }

}  // namespace aevb
