// A speculative gradient is computed before its cotangent is known.
//
// A loss hands the same cotangent to an operator at every step: 1, -1, 1 / batch, GradScaler's scale. A forward that
// guesses it computes value and gradient in one pass over memory instead of two, and its backward, having seen that the
// guess was right, only hands the gradient on. If it was wrong the backward computes the gradient as ever, by the same
// arithmetic: a guess changes the time that a result takes, never a bit of it.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace aevb {

class CotangentHistory;

// Whether an operator may call its kernels on these tensors by itself, and keep what they give: plain tensors of the
// CPU (elsewhere to read a cotangent is to wait for the device) whose memory holds their numbers (not with the sign to
// be changed, nor zeros without memory), nobody watching or transforming the operators, and nobody counting on little
// being saved (activation checkpoints and other hooks).
bool may_bypass_dispatcher(const std::vector<at::Tensor>& tensors);

// Gradients that wait for their cotangent. Of a problem there are
//   std::optional<size_t> history_key(const Problem&);    of what shares a history; none: no guess is made
//   std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const Problem&, double cotangent,
//                                                                        at::ArrayRef<bool> wanted);
class SpeculativeGradient {
 public:
  ~SpeculativeGradient() { discard(); }

  // The values, computed together with the gradients, if there is a guess worth making. The gradients stay here.
  template <class Problem>
  std::optional<at::Tensor> compute(const Problem& problem, at::ArrayRef<bool> wanted) {
    const auto key = history_key(problem);
    if (!key || !guess(*key)) return std::nullopt;
    auto [value, gradients] = values_and_gradients(problem, guess_, wanted);
    gradients_ = std::move(gradients);
    return value;
  }

  // The gradients, if they were computed for this cotangent.
  std::optional<std::vector<at::Tensor>> take(const at::Tensor& cotangent);

  void discard();

 private:
  bool guess(size_t history_key);

  CotangentHistory* history_ = nullptr;
  double guess_ = 0;
  std::vector<at::Tensor> gradients_;
};

}  // namespace aevb
