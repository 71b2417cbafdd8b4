// Dispatches a call to its formula; each formula is compiled in a file of its own.
#include "cuda/kernels.h"
#include "cuda/rows.h"

namespace aevb::cuda {
namespace {

template <class Direction>
cudaError_t run(const RowCall& call, cudaStream_t stream) {
  if (call.rows == 0 || call.event == 0) return cudaSuccess;
  switch (call.formula) {
    case Formula::bernoulli: return device::run<Direction, device::Bernoulli>(call, stream);
    case Formula::bernoulli_of_probs: return device::run<Direction, device::BernoulliOfProbs>(call, stream);
    case Formula::gaussian: return device::run<Direction, device::Gaussian>(call, stream);
    case Formula::gaussian_of_sigmoid: return device::run<Direction, device::GaussianOfSigmoid>(call, stream);
    case Formula::gaussian_kl: return device::run<Direction, device::GaussianKl>(call, stream);
    case Formula::gaussian_kl_prior: return device::run<Direction, device::GaussianKlPrior>(call, stream);
    case Formula::poisson: return device::run<Direction, device::Poisson>(call, stream);
    case Formula::negative_binomial: return device::run<Direction, device::NegativeBinomial>(call, stream);
    case Formula::negative_binomial_of_logits:
      return device::run<Direction, device::NegativeBinomialOfLogits>(call, stream);
    case Formula::zero_inflated_negative_binomial:
      return device::run<Direction, device::ZeroInflatedNegativeBinomial>(call, stream);
    case Formula::laplace: return device::run<Direction, device::Laplace>(call, stream);
    case Formula::student_t: return device::run<Direction, device::StudentT>(call, stream);
    case Formula::continuous_bernoulli: return device::run<Direction, device::ContinuousBernoulli>(call, stream);
    case Formula::discretized_logistic: return device::run<Direction, device::DiscretizedLogistic>(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t row_forward(const RowCall& call, cudaStream_t stream) {
  return call.guesses.used ? run<device::Backward>(call, stream) : run<device::Forward>(call, stream);
}
cudaError_t row_backward(const RowCall& call, cudaStream_t stream) { return run<device::Backward>(call, stream); }

}  // namespace aevb::cuda
