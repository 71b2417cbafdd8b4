// A log-likelihood of positions that each have a vector of parameters (PositionCall) as a problem over rows, like those
// of ops/common/rows.h.
#pragma once
#include "ops/common/rows.h"

namespace aevb {

struct PositionProblem {
  PositionFormula formula;
  // The parameters' vectors lie along dimension `dim`, which is counted from the end; without it their shape is that of
  // the positions [*samples, *batch, *event]. x broadcasts to them, without its own dimension `dim` if it has colours.
  at::Tensor x, parameters;
  int64_t dim;
  bool x_has_colours;
  int64_t event_dims;  // of the positions
  Reduction reduction;

  // The positions of a tensor: its first numbers.
  at::Tensor positions_of(const at::Tensor& t) const { return t.select(dim, 0); }
  at::Tensor shape_of() const { return positions_of(parameters); }
};

at::Tensor row_values(const PositionProblem& problem);

// Of x, which has none, and of the parameters.
std::vector<at::Tensor> row_gradients(const PositionProblem& problem, const at::Tensor& cotangent,
                                      at::ArrayRef<bool> wanted, bool paired = false);

// For a speculative gradient (speculative_gradient.h).
std::optional<size_t> history_key(const PositionProblem& problem);
std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const PositionProblem& problem, double cotangent,
                                                                     at::ArrayRef<bool> wanted, bool paired);

}  // namespace aevb
