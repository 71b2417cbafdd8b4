// How tensors lie in memory, and their descriptions for the kernels.
//
// A call's loop goes through memory in order where it can: its `Order` is that of the operands. Results are laid out as
// PyTorch's elementwise operators lay out theirs, and gradients as their operands.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>

#include "call.h"

namespace aevb {

at::ScalarType wide_type(const at::Tensor& t);  // the dtype of the arithmetic: float64 for float64, else float32
Type type_of(at::ScalarType type);

// The dimensions of a shape, outermost first; empty: as they are numbered.
using Order = c10::SmallVector<int64_t, kMaxDims>;

// The order of a call's loop over the shape of its first operand: that in which this operand lies in memory or, if that
// is contiguous, the first other one of the same shape that is not. Only the last `free_dims` dimensions are permuted.
Order loop_order(at::ArrayRef<at::Tensor> operands, int64_t free_dims);

// `order` with one more dimension, outermost.
Order with_outer_dim(const Order& order);

// `t` read at every index of `sizes`, to which it broadcasts, in this order. If its dimensions cannot be merged into
// few enough, `t` is replaced by a copy.
Input describe(at::Tensor& t, at::IntArrayRef sizes, const Order& order = {});

// The mapping from an order's flat indices to logical ones; none for the logical order.
Input logical_indices(at::IntArrayRef sizes, const Order& order);

// An uninitialised tensor, laid out as PyTorch's elementwise operators lay out the result of these operands, which
// broadcast to its sizes.
at::Tensor empty_elementwise(c10::SymIntArrayRef sizes, at::ArrayRef<at::Tensor> operands,
                             const at::TensorOptions& options);

// An uninitialised tensor that is contiguous in an order.
at::Tensor empty_in_order(at::IntArrayRef sizes, const Order& order, const at::TensorOptions& options);

// `t`, which has the shape of `operand`, laid out as `empty_elementwise` of the operand: copied only if it is not.
at::Tensor laid_out_like(const at::Tensor& t, const at::Tensor& operand);

// A tensor for the kernels to fill, one number for each element of a call. What they cannot write in place, which on
// a device is all but rows with gaps between them, they write in the order of their loop, and it is copied.
class Result {
 public:
  Result() = default;
  explicit Result(at::Tensor tensor) : tensor_(std::move(tensor)) {}
  // Of a call with rows of `event` elements. Valid as long as this object, which it points to.
  Output output(const Order& order, int64_t event, bool any_layout = true);
  at::Tensor finish() const;

 private:
  at::Tensor tensor_, in_order_;
  Input layout_;
};

// The number of blocks in which a row of `event` elements is summed.
inline int64_t blocks_of(int64_t event) { return (event + kBlock - 1) / kBlock; }

// Whether two tensors are the halves of one: as they lie in memory, `second` follows `first` in each run of contiguous
// elements. If so, the length of a run, else 0.
int64_t run_of_halves(const at::Tensor& first, const at::Tensor& second);

// The same of a tensor that may be the second half, in a dimension, and what lies before it.
int64_t run_of_second_half(const at::Tensor& second, int64_t dim);

// Two uninitialised tensors of the shape of such a half that are the halves of one tensor.
std::array<at::Tensor, 2> empty_halves(const at::Tensor& half, int64_t run);

}  // namespace aevb
