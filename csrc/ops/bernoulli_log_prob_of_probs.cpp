#include "ops/bernoulli.h"
#include "ops/register.h"

namespace aevb {
namespace {

using at::Tensor;

struct Probs {
  static constexpr const char *argument = "probs", *node_name = "BernoulliLogProbOfProbs",
                              *operator_name = "aevb_ext::bernoulli_log_prob_of_probs",
                              *backward_name = "aevb_ext::bernoulli_log_prob_of_probs_backward";
  static constexpr Formula formula = Formula::bernoulli_of_probs;

  static Tensor by_data(const Tensor& p) { return p.log() - (-p).log1p(); }
  static Tensor by_parameter(const Tensor& x, const Tensor& p) {
    const Tensor variance = p * (1 - p);
    return (x - p) / variance.clamp_min(1e-12).masked_fill(variance < 0, NAN);
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("bernoulli_log_prob_of_probs(Tensor x, Tensor probs, float x_scale, str reduction, int batch_dims) -> Tensor");
  m.def(
      "bernoulli_log_prob_of_probs_backward(Tensor cotangent, Tensor x, Tensor probs, float x_scale, str reduction, "
      "int batch_dims, bool[2] wanted) -> (Tensor, Tensor)");
}
AEVB_REGISTER("bernoulli_log_prob_of_probs", bernoulli_forward<Probs>)
AEVB_REGISTER("bernoulli_log_prob_of_probs_backward", bernoulli_backward<Probs>)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) {
  m.impl("bernoulli_log_prob_of_probs", TORCH_FN(bernoulli_autograd<Probs>));
}

}  // namespace aevb
