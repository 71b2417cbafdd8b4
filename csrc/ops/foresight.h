// Gradients that are computed before their cotangent is known.
//
// A loss hands the same cotangent to an operator at every step: 1, -1, 1 / batch, GradScaler's scale. A forward that
// guesses it computes value and gradient in one pass over memory instead of two, and its backward, having seen that the
// guess was right, only hands the gradient on. If it was wrong the backward computes the gradient as ever, by the same
// arithmetic: a guess changes the time that a result takes, never a bit of it.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "ops/rows.h"

namespace aevb {

class CotangentHistory;

// Whether a forward on these tensors may look ahead: plain tensors of the CPU (elsewhere to read a cotangent is to wait
// for the device) whose memory holds their numbers (not with the sign to be changed, nor zeros without memory), nobody
// watching or transforming the operators, and nobody counting on little being saved (activation checkpoints and other
// hooks).
bool may_look_ahead(const std::vector<at::Tensor>& tensors);

// Gradients that wait for their cotangent.
class Foresight {
 public:
  ~Foresight() { forget(); }

  // The values, computed together with the gradients, if there is a guess worth making. The gradients stay here.
  std::optional<at::Tensor> look_ahead(const RowProblem& problem, at::ArrayRef<bool> wanted);

  // The gradients, if they were computed for this cotangent.
  std::optional<std::vector<at::Tensor>> take(const at::Tensor& cotangent);

  void forget();

 private:
  CotangentHistory* history_ = nullptr;
  double guess_ = 0;
  std::vector<at::Tensor> gradients_;
};

}  // namespace aevb
