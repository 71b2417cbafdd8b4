// A decoder's last linear layer and the likelihood of its output, as one problem over rows (rows.h) without all logits
// in memory.
//
// The rows are computed in blocks. While a block's logits are in the cache, they are turned into sums of likelihoods
// and into their own gradient, which is then multiplied into the gradients of the layer. The two-step form writes the
// logits and their gradient to memory and reads them again, several times. A value together with its gradients costs
// three matrix products, as in the two-step form; a separate backward computes the logits again, which is a fourth
// product.
#pragma once
#include "ops/common/rows.h"

namespace aevb {

struct LinearRows {
  Formula formula;
  double x_scale;
  Reduction reduction;
  int64_t event_dims;
  // x [*batch, *event] broadcasts to the layer's output [*samples, *batch, *event]; h has the same shape except for its
  // last dimension. bias may be undefined. The formula's second operand is the layer's output. Its third, if it has
  // one, is `logvar`, which broadcasts to the output's last dimension or, if that is undefined, the output's second
  // half.
  at::Tensor x, h, weight, bias, logvar;

  // The number of operands of the formula that the layer computes.
  int64_t heads() const { return formula == Formula::bernoulli || logvar.defined() ? 1 : 2; }
  // A placeholder for one of them: its shape and dtype, without memory.
  at::Tensor shape_of() const;
};

at::Tensor row_values(const LinearRows& problem);

// The gradients of x, h, weight, bias and logvar, undefined if they are not wanted.
std::vector<at::Tensor> row_gradients(const LinearRows& problem, const at::Tensor& cotangent, at::ArrayRef<bool> wanted,
                                      bool paired = false);

std::optional<size_t> history_key(const LinearRows& problem);
std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const LinearRows& problem, double cotangent,
                                                                     at::ArrayRef<bool> wanted, bool paired);

}  // namespace aevb
