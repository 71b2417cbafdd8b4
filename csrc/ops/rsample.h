// Reparameterised samples z = mu + sigma eps of a noise key, without the KL (rsample.cpp) and with it (rsample_kl.cpp).
#pragma once
#include "ops/common/autograd.h"
#include "ops/common/rows.h"

namespace aevb {

using Samples = std::optional<c10::SymInt>;  // how many, in a leading dimension; none: one, without it
using SampleNumber = c10::SymInt;            // the number of the first, among all samples of a key

// The dimensions of the keys are the first ones of mu, and not part of the event.
struct SampleProblem {
  at::Tensor logvar, key;
  Samples n_samples;
  SampleNumber first_sample;
  Spread spread;
  int64_t event_dims;

  // z, and the KL unless `reduction` is absent
  std::tuple<at::Tensor, at::Tensor> forward(at::Tensor mu, std::optional<Reduction> reduction) const;

  // The gradients of mu and logvar. Cotangents may be undefined; mu may be undefined without a cotangent of the KL.
  // `like_mu` has its shape and dtype. With a `run` mu and logvar are halves of one tensor, and so are their gradients.
  std::tuple<at::Tensor, at::Tensor> backward(at::Tensor z_cotangent, at::Tensor kl_cotangent, at::Tensor mu,
                                              const at::Tensor& like_mu, Reduction reduction,
                                              std::array<bool, 2> wanted, int64_t run = 0) const;
};

// At most `batch_dims` dimensions of mu may have keys of their own.
void check_sampling(const at::Tensor& mu, const at::Tensor& logvar, const at::Tensor& key, Samples n_samples,
                    SampleNumber first_sample, int64_t batch_dims, const char* name = "mu");

// The sizes of z, for those of mu.
c10::SymDimVector with_samples(Samples n_samples, c10::SymIntArrayRef sizes);

// rsample's backward as differentiable ATen operations: the gradients of mu and logvar.
variable_list differentiable_sample_backward(const at::Tensor& z_cotangent, const at::Tensor& logvar,
                                             const at::Tensor& key, Samples n_samples, SampleNumber first_sample,
                                             Spread spread, at::ArrayRef<bool> wanted);

}  // namespace aevb
