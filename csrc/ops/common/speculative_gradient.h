// A speculative gradient is computed before its cotangent is known.
//
// A loss gives an operator the same cotangent at every step: 1, -1, 1 / batch, GradScaler's scale. A forward that
// guesses it computes value and gradient in one pass over memory instead of two. If the guess was right, the backward
// only returns the gradient. If it was wrong, the backward computes the gradient as usual, by the same arithmetic: a
// guess changes the time that a result takes, never a bit of it.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace aevb {

class CotangentHistory;

// Whether an operator may call its kernels on these tensors by itself, and keep the results. The tensors have to be
// plain tensors on the CPU (on a device, reading a cotangent would wait for it) whose memory holds their numbers (no
// negation bit, no zeros without memory). No mode or transform may observe the operators, and no hook may rely on
// little being saved (activation checkpointing).
bool may_bypass_dispatcher(const std::vector<at::Tensor>& tensors);

// Gradients that wait for their cotangent. A Problem needs
//   std::optional<size_t> history_key(const Problem&);    the key of its history; none: no guess is made
//   std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const Problem&, double cotangent,
//                                                                        at::ArrayRef<bool> wanted);
class SpeculativeGradient {
 public:
  ~SpeculativeGradient() { discard(); }

  // The values, computed together with the gradients, if there is a cotangent to guess. The gradients are kept here.
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
