#include "ops/bernoulli.h"
#include "ops/register.h"

namespace aevb {

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("bernoulli_log_prob(Tensor x, Tensor logits, float x_scale, str reduction, int batch_dims) -> Tensor");
  m.def(
      "bernoulli_log_prob_backward(Tensor cotangent, Tensor x, Tensor logits, float x_scale, str reduction, "
      "int batch_dims, bool[2] wanted) -> (Tensor, Tensor)");
}
AEVB_REGISTER("bernoulli_log_prob", bernoulli_forward<Logits>)
AEVB_REGISTER("bernoulli_log_prob_backward", bernoulli_backward<Logits>)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("bernoulli_log_prob", TORCH_FN(bernoulli_autograd<Logits>)); }

}  // namespace aevb
