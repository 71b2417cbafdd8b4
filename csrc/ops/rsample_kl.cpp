#include "ops/common/autocast.h"
#include "ops/common/packed.h"
#include "ops/common/register.h"
#include "ops/gaussian_kl.h"
#include "ops/rsample.h"

namespace aevb {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The arguments of sampling with the KL to N(0, I) and its backward, beside tensors.
struct RsampleKl {
  static constexpr const char *name = "RsampleKl", *backward_name = "aevb_ext::rsample_kl_backward";
  Samples n_samples;
  SampleNumber first_sample;
  std::string spread, reduction;
  int64_t batch_dims = 1;
  std::optional<int64_t> packed = {};  // common/packed.h

  auto settings() const { return std::make_tuple(n_samples, first_sample, spread, reduction, batch_dims); }
  SampleProblem problem(const Tensor& mu, const Tensor& logvar, const Tensor& key) const {
    return {logvar, key, n_samples, first_sample, parse_spread(spread), mu.dim() - batch_dims};
  }
  variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list paired(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const;
};

std::tuple<Tensor, Tensor> forward(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples,
                                   SampleNumber first_sample, c10::string_view spread, c10::string_view reduction,
                                   int64_t batch_dims) {
  check_batch_dims(batch_dims, "mu", mu);
  check_sampling(mu, logvar, key, n_samples, first_sample, batch_dims);
  const RsampleKl op{n_samples, first_sample, std::string(spread), std::string(reduction), batch_dims};
  return op.problem(mu, logvar, key).forward(mu, parse_reduction(reduction));
}

std::tuple<Tensor, Tensor> backward(const OptionalTensor& z_cotangent, const OptionalTensor& kl_cotangent,
                                    const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples,
                                    SampleNumber first_sample, c10::string_view spread, c10::string_view reduction,
                                    int64_t batch_dims, std::array<bool, 2> wanted, std::optional<int64_t> packed) {
  check_batch_dims(batch_dims, "mu", mu);
  check_sampling(mu, logvar, key, n_samples, first_sample, batch_dims);
  const RsampleKl op{n_samples, first_sample, std::string(spread), std::string(reduction), batch_dims};
  const SampleProblem problem = op.problem(mu, logvar, key);
  const Reduction kind = parse_reduction(reduction);
  if (z_cotangent) {
    check_same_device("z_cotangent", *z_cotangent, "mu", mu);
    const auto expected = with_samples(n_samples, mu.sym_sizes());
    TORCH_CHECK_VALUE(z_cotangent->sym_sizes() == c10::SymIntArrayRef(expected), "z_cotangent has shape ",
                      z_cotangent->sym_sizes(), ": expected that of z, ", c10::SymIntArrayRef(expected));
    TORCH_CHECK_TYPE(z_cotangent->scalar_type() == mu.scalar_type(), "z_cotangent is ", z_cotangent->scalar_type(),
                     ", but mu is ", mu.scalar_type(), ": expected one dtype");
  }
  if (kl_cotangent) check_cotangent("kl_cotangent", *kl_cotangent, mu, problem.event_dims, kind);
  const variable_list cotangents = {z_cotangent.value_or(Tensor()), kl_cotangent.value_or(Tensor())};
  if (!packed) return problem.backward(cotangents[0], cotangents[1], mu, mu, kind, wanted);
  variable_list gradients(2);
  if (mu.is_cpu()) gradients = op.paired(cotangents, {mu, logvar, key}, {{true, true}});
  pack(gradients, 0, mu, *packed);
  return {gradients[0], gradients[1]};
}

variable_list RsampleKl::fused(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const {
  static auto op = find_operator<decltype(backward)>("aevb_ext::rsample_kl_backward");
  auto [dmu, dlogvar] = op.call(optional(cotangents[0]), optional(cotangents[1]), saved[0], saved[1], saved[2],
                                n_samples, first_sample, spread, reduction, batch_dims, {wanted[0], wanted[1]}, packed);
  variable_list gradients = {dmu, dlogvar};
  if (packed) unpack(gradients, 0, saved[0], *packed);
  return gradients;
}

variable_list RsampleKl::paired(const variable_list& cotangents, const variable_list& saved,
                                at::ArrayRef<bool> wanted) const {
  const Tensor &mu = saved[0], &logvar = saved[1];
  const int64_t run = wanted[0] && wanted[1] ? run_of_halves(mu, logvar) : 0;
  if (!run) return fused(cotangents, saved, wanted);
  auto [dmu, dlogvar] =
      problem(mu, logvar, saved[2])
          .backward(cotangents[0], cotangents[1], mu, mu, parse_reduction(reduction), {true, true}, run);
  return {dmu, dlogvar};
}

variable_list RsampleKl::differentiable(const variable_list& cotangents, const variable_list& saved,
                                        at::ArrayRef<bool> wanted) const {
  // Added in the type of the arithmetic before they are narrowed.
  const auto wide = wide_type(saved[0]);
  const Tensor mu = saved[0].to(wide), logvar = saved[1].to(wide), &key = saved[2];
  variable_list of_z(2), of_kl(4);
  if (cotangents[0].defined())
    of_z = differentiable_sample_backward(cotangents[0].to(wide), logvar, key, n_samples, first_sample,
                                          parse_spread(spread), wanted);
  if (cotangents[1].defined())
    of_kl = differentiable_kl_backward(cotangents[1], {mu, logvar, Tensor(), Tensor()}, spread, reduction, batch_dims,
                                       {wanted[0], wanted[1], false, false});
  for (int k = 0; k < 2; ++k) {
    of_z[k] = of_z[k].defined() && of_kl[k].defined() ? of_z[k] + of_kl[k] : of_z[k].defined() ? of_z[k] : of_kl[k];
    if (of_z[k].defined()) of_z[k] = narrowed(of_z[k], saved[k].scalar_type());
  }
  return of_z;
}

std::tuple<Tensor, Tensor> autograd(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples,
                                    SampleNumber first_sample, c10::string_view spread, c10::string_view reduction,
                                    int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::rsample_kl");
  return record(RsampleKl{n_samples, first_sample, std::string(spread), std::string(reduction), batch_dims,
                          packed_dim(mu, logvar)},
                {mu, logvar}, {mu, logvar, key},
                [&] { return op.call(mu, logvar, key, n_samples, first_sample, spread, reduction, batch_dims); });
}

std::tuple<Tensor, Tensor> autocast(const Tensor& mu, const Tensor& logvar, const Tensor& key, Samples n_samples,
                                    SampleNumber first_sample, c10::string_view spread, c10::string_view reduction,
                                    int64_t batch_dims) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::rsample_kl");
  const WithoutAutocast guard;
  const auto [m, s] = promoted(mu, logvar);
  return op.call(m, s, key, n_samples, first_sample, spread, reduction, batch_dims);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def(
      "rsample_kl(Tensor mu, Tensor logvar, Tensor key, SymInt? n_samples, SymInt first_sample, str spread, "
      "str reduction, int batch_dims) -> (Tensor, Tensor)",
      kAnyLayout);
  m.def(
      "rsample_kl_backward(Tensor? z_cotangent, Tensor? kl_cotangent, Tensor mu, Tensor logvar, Tensor key, "
      "SymInt? n_samples, SymInt first_sample, str spread, str reduction, int batch_dims, bool[2] wanted, "
      "int? packed=None) -> (Tensor, Tensor)",
      kAnyLayout);
}
AEVB_REGISTER("rsample_kl", forward)
AEVB_REGISTER("rsample_kl_backward", backward)
AEVB_AUTOCAST("rsample_kl", autocast)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("rsample_kl", TORCH_FN(autograd)); }

}  // namespace aevb
