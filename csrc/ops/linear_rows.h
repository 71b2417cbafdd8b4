// A decoder's last linear layer and the likelihood of its output, as one problem over rows (rows.h) whose logits are
// never all there.
//
// The rows are done in blocks. A block's logits are computed, become their likelihoods' sums and their own gradient
// while they are in the cache, and from there go into the gradients of the layer: what the two-step form writes to
// memory and reads again, several times, stays where it is. A value with its gradients costs three products of matrices
// as in the two-step form; a backward that comes later has to compute the logits again, and so costs a fourth.
#pragma once
#include "ops/common/rows.h"

namespace aevb {

struct LinearRows {
  Formula formula;
  double x_scale;
  Reduction reduction;
  int64_t event_dims;
  // x [*batch, *event], which broadcasts to the layer's output [*samples, *batch, *event]; h is that but for its last
  // dimension. bias may be undefined. The formula's second operand is the layer's output; its third, if it has one,
  // `logvar`, which broadcasts to the output's last dimension, or, where that is undefined, the output's second half.
  at::Tensor x, h, weight, bias, logvar;

  // How many operands of the formula the layer makes.
  int64_t heads() const { return formula == Formula::bernoulli || logvar.defined() ? 1 : 2; }
  // What stands for one of them: its shape and dtype, without the memory.
  at::Tensor output() const;
};

at::Tensor row_values(const LinearRows& problem);

// Those of x, h, weight, bias and logvar, undefined where they are not wanted.
std::vector<at::Tensor> row_gradients(const LinearRows& problem, const at::Tensor& cotangent,
                                      at::ArrayRef<bool> wanted);

std::optional<size_t> history_key(const LinearRows& problem);
std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const LinearRows& problem, double cotangent,
                                                                     at::ArrayRef<bool> wanted);

}  // namespace aevb
