// Means and spreads that are the halves of one tensor, in compiled graphs.
//
// There an operator gives the gradients of both as one tensor, which the graph splits. The backward of chunk (or of
// `halves`) concatenates them again, and the compiler leaves out both.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace aevb {

// Where AOTAutograd traces a forward with its backward: the dimension in which two tensors are the halves of one; none
// if they are not, or not both learnt.
std::optional<int64_t> packed_dim(const at::Tensor& first, const at::Tensor& second);

// The gradients of `first` and the operand after it, which is the k-th, as one tensor in the k-th place. It is laid out
// as the tensor of which they are halves; nothing is copied if the gradients are already such halves.
void pack(std::vector<at::Tensor>& gradients, size_t k, const at::Tensor& first, int64_t dim);

// The inverse.
void unpack(std::vector<at::Tensor>& gradients, size_t k, const at::Tensor& first, int64_t dim);

}  // namespace aevb
