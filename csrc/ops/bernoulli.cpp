// The Bernoulli log-likelihood of logits and of probabilities, as operators.
#include "ops/bernoulli.h"

#include <ATen/ops/where.h>

#include "ops/common/register.h"

namespace aevb {
namespace {

using at::Tensor;
using torch::autograd::Edge;
using torch::autograd::Node;

c10::SymInt elements(const Edge& edge) {
  c10::SymInt product = 1;
  for (const auto& size : edge.function->input_metadata(edge.input_nr).shape_as_dim_vector()) product *= size;
  return product;
}

// Whether the edge leads to a view or a conversion of dtype that keeps all elements in order.
bool keeps_order(const Edge& edge, const std::string& node_name) {
  for (const char* view :
       {"View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Alias", "Expand", "ToCopy", "Widened"})
    if (node_name.starts_with(std::string(view) + "Backward"))
      return edge.function->next_edge(0).is_valid() && elements(edge) == elements(edge.function->next_edge(0));
  return false;
}

// Calls visit(node) for the nodes from the probabilities back to the sigmoid that made them, and returns the sigmoid's
// node; null if something else made them.
template <class Visit>
Node* way_to_sigmoid(const Node& likelihood, Visit visit) {
  Edge edge = likelihood.next_edge(1);
  while (edge.is_valid()) {
    visit(*edge.function);
    const std::string name = edge.function->name();
    if (name == "SigmoidBackward0") break;
    edge = keeps_order(edge, name) ? edge.function->next_edge(0) : Edge();
  }
  return edge.function.get();  // which the graph keeps
}

struct Probs {
  static constexpr const char *argument = "probs", *node_name = "BernoulliLogProbOfProbs",
                              *operator_name = "aevb_ext::bernoulli_log_prob_of_probs",
                              *speculative_name = "aevb_ext::bernoulli_log_prob_of_probs_speculative",
                              *backward_name = "aevb_ext::bernoulli_log_prob_of_probs_backward";
  static constexpr Formula formula = Formula::bernoulli_of_probs;

  static Tensor by_data(const Tensor& p) { return p.log().clamp_min(-100) - (-p).log1p().clamp_min(-100); }
  static Tensor by_parameter(const Tensor& x, const Tensor& p) {
    const Tensor variance = p * (1 - p);
    return (x - p) / variance.clamp_min(1e-12).masked_fill(variance < 0, NAN);
  }

  // float16 ends at 65504 and has no number between 0.9995 and 1, so the gradient by probabilities near 0 or 1 loses
  // information. A sigmoid's backward cannot restore it: it multiplies by p (1 - p), which may be 0. If the logits are
  // found, they get what is missing from (x - p), their gradient.
  static Edge producer_edge(const Node& node, const Tensor& probs) {
    if (!probs.requires_grad()) return {};
    const Node* sigmoid = way_to_sigmoid(node, [](const Node&) {});
    if (!sigmoid) return {};
    const auto dtype = c10::typeMetaToScalarType(sigmoid->input_metadata(0).options().dtype());
    return dtype == at::kHalf ? sigmoid->next_edge(0) : Edge();
  }
  // If the user has a tensor hook in between, the gradient is left as it is. (Hooks of nodes are the compiler's.)
  static bool gives_producer_gradient(const Node& node) {
    bool hooked = false;
    way_to_sigmoid(node, [&](Node& between) { hooked = hooked || !between.tensor_pre_hooks().empty(); });
    return !hooked;
  }
  static Tensor producer_gradient(const Tensor& cotangent, const Tensor& x, const Tensor& p, Tensor& by_p) {
    // Also for probabilities that were cast to another dtype: the cast's own backward would make it infinite.
    by_p = narrowed(by_p, at::kHalf).to(by_p.scalar_type());
    const Tensor variance = p * (1 - p), lost = (by_p.abs() >= 65504).logical_or(variance == 0);
    return narrowed(at::where(lost, cotangent * (x - p) - by_p.to(p.scalar_type()) * variance, 0), at::kHalf);
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("bernoulli_log_prob(Tensor x, Tensor logits, float x_scale, str reduction, int batch_dims) -> Tensor",
        kAnyLayout);
  m.def(
      "bernoulli_log_prob_speculative(Tensor x, Tensor logits, float x_scale, str reduction, int batch_dims, "
      "bool[2] wanted) -> (Tensor, Tensor)",
      kAnyLayout);
  m.def(
      "bernoulli_log_prob_backward(Tensor cotangent, Tensor x, Tensor logits, float x_scale, str reduction, "
      "int batch_dims, bool[2] wanted, Tensor? speculative=None) -> (Tensor, Tensor)",
      kAnyLayout);
  m.def("bernoulli_log_prob_of_probs(Tensor x, Tensor probs, float x_scale, str reduction, int batch_dims) -> Tensor",
        kAnyLayout);
  m.def(
      "bernoulli_log_prob_of_probs_speculative(Tensor x, Tensor probs, float x_scale, str reduction, int batch_dims, "
      "bool[2] wanted) -> (Tensor, Tensor)",
      kAnyLayout);
  m.def(
      "bernoulli_log_prob_of_probs_backward(Tensor cotangent, Tensor x, Tensor probs, float x_scale, str reduction, "
      "int batch_dims, bool[2] wanted, Tensor? speculative=None) -> (Tensor, Tensor)",
      kAnyLayout);
}
AEVB_REGISTER("bernoulli_log_prob", bernoulli_forward<Logits>)
AEVB_REGISTER("bernoulli_log_prob_speculative", bernoulli_speculative<Logits>)
AEVB_REGISTER("bernoulli_log_prob_backward", bernoulli_backward<Logits>)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("bernoulli_log_prob", TORCH_FN(bernoulli_autograd<Logits>)); }
AEVB_REGISTER("bernoulli_log_prob_of_probs", bernoulli_forward<Probs>)
AEVB_REGISTER("bernoulli_log_prob_of_probs_speculative", bernoulli_speculative<Probs>)
AEVB_REGISTER("bernoulli_log_prob_of_probs_backward", bernoulli_backward<Probs>)
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) {
  m.impl("bernoulli_log_prob_of_probs", TORCH_FN(bernoulli_autograd<Probs>));
}

}  // namespace aevb
