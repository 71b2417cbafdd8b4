// Shared by the operators over rows: the shape of a problem, its call to the kernels, and its reduction.
#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

#include <memory>
#include <vector>

#include "ops/common/check.h"
#include "ops/common/layout.h"

namespace aevb {

// A formula and its operands. One of them, `full`, has the whole shape; the others broadcast to it. Its last
// `event_dims` dimensions are the event.
struct RowProblem {
  Formula formula;
  Params params;
  std::vector<at::Tensor> operands;
  int full;
  int64_t event_dims;
  Reduction reduction;

  const at::Tensor& shape_of() const { return operands[full]; }
};

// Fills in the shape of a call to the kernels: that of `full`, whose last `event_dims` dimensions are the event.
template <class Call>
void set_shape(Call& call, const at::Tensor& full, int64_t event_dims) {
  const auto sizes = full.sizes();
  call.wide = type_of(wide_type(full));
  call.event = c10::multiply_integers(sizes.slice(sizes.size() - event_dims));
  call.rows = c10::multiply_integers(sizes.slice(0, sizes.size() - event_dims));
  call.blocks = blocks_of(call.event);
}

at::Tensor row_values(const RowProblem& problem);

// One gradient for each operand, undefined if it is not wanted. `wanted` may be longer than the operands. If `paired`,
// the gradients of two operands that are halves of one tensor are written side by side.
std::vector<at::Tensor> row_gradients(const RowProblem& problem, const at::Tensor& cotangent, at::ArrayRef<bool> wanted,
                                      bool paired = false);

// Values and gradients in one pass, on the CPU, for a cotangent that is one number (speculative_gradient.h).
std::optional<size_t> history_key(const RowProblem& problem);
std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const RowProblem& problem, double cotangent,
                                                                     at::ArrayRef<bool> wanted, bool paired);

// The same on a device whose kernels guess the cotangent, of which the host never learns: the gradients' memory, and
// each block's guess. Null: the call cannot have them. They become the gradients for a cotangent once.
struct GuessedGradients;
bool guesses_cotangents(const RowProblem& problem);
std::tuple<at::Tensor, std::shared_ptr<GuessedGradients>> values_and_guessed_gradients(const RowProblem& problem,
                                                                                       at::ArrayRef<bool> wanted,
                                                                                       bool paired);
std::optional<std::vector<at::Tensor>> gradients_after_guess(const RowProblem& problem, const at::Tensor& cotangent,
                                                             GuessedGradients& guessed, at::ArrayRef<bool> wanted);

// The history that problems with this formula, reduction and shape share.
std::optional<size_t> history_key(Formula formula, Reduction reduction, const at::Tensor& full);

// The kernels' results are the sums of each row's blocks, or one number for each element ("none"), which lie as the
// operands do; without operands they are contiguous.
at::Tensor empty_values(const at::Tensor& full, int64_t event_dims, bool per_element,
                        at::ArrayRef<at::Tensor> operands = {});
at::Tensor reduce(at::Tensor values, const at::Tensor& full, int64_t event_dims, Reduction reduction);

// A reduction's cotangent with as many dimensions as `full`, to which it broadcasts.
at::Tensor over_event(const at::Tensor& cotangent, const at::Tensor& full, int64_t event_dims, Reduction reduction);

// The same in the type of the arithmetic and with the mean's 1 / rows in it, for differentiable backwards.
at::Tensor differentiable_cotangent(const at::Tensor& cotangent, const at::Tensor& full, int64_t event_dims,
                                    Reduction reduction);

// Checks that a cotangent has the shape of the reduction's values.
void check_cotangent(const char* name, const at::Tensor& cotangent, const at::Tensor& full, int64_t event_dims,
                     Reduction reduction);

// How many of the dimensions a call's loop may go through in the order of the memory: all, if nothing is a number for a
// row. Whether that is so depends on the shapes alone, and with it the order of summation.
int64_t free_dims(at::ArrayRef<at::Tensor> operands, const at::Tensor& full, int64_t event_dims, Reduction reduction);

// The gradient of one operand: the tensor that the kernel fills, and its conversion to the operand's shape and dtype.
class OperandGradient {
 public:
  // The kernel's loop has this order. It may sum over rows, so many each, if that is not 0.
  OperandGradient(const at::Tensor& operand, const at::Tensor& full, int64_t event_dims, bool wanted, Order order = {},
                  int64_t rows_per_sum = 0);
  // One of a pair: `half` is its memory.
  OperandGradient(const at::Tensor& half, Order order) : result_(half), order_(std::move(order)) {}
  Output output(int64_t event);
  at::Tensor finish(const at::Tensor& full, int64_t event_dims) const;

 private:
  // A buffer: in the type of the arithmetic, of the full shape, row sums, or sums over rows.
  at::Tensor operand_, buffer_;
  Result result_;
  Order order_;
  bool per_block_ = false;
  int64_t rows_per_sum_ = 0;
};

// A gradient in a dtype that may be narrower than the arithmetic's. As in the kernels, a finite gradient that overflows
// becomes the largest number, since infinity would become NaN when multiplied by zero. Infinity and NaN stay.
at::Tensor narrowed(const at::Tensor& gradient, at::ScalarType type);

// `gradient`, of the full shape, in the shape and dtype of an operand that was broadcast to it.
at::Tensor as_operand(const at::Tensor& gradient, const at::Tensor& operand);

}  // namespace aevb
