// A linear layer and its products of matrices, on the best library at hand: in float32 on the CPU oneDNN, which comes
// with PyTorch.
//
// nn.Linear multiplies by MKL, which withholds its AVX-512 kernels from CPUs of other makers than Intel. On a Zen 5
// with two threads oneDNN runs the products of a 784-500-784 layer at 350 to 440 GFLOP/s where MKL runs them at 155 to
// 195.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace aevb {

// a b
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);

// act(x w^T + bias), where act is tanh or nothing
at::Tensor activated_layer(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias, bool tanh);

// Into memory that is there already: result = a b, or with `add` result + a b. A half-precision product may be added up
// in float32.
void multiply(const at::Tensor& a, const at::Tensor& b, const at::Tensor& result, bool add = false);

// result = x w^T + bias; without a bias where it is undefined.
void layer(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const at::Tensor& result);

// Rows of so many bytes that a block has. On the CPU it is to stay in the caches beside what it is multiplied by, but
// to add a block to the weight's gradient is to read and write all of that, for which it should have rows enough. A GPU
// wants much work at once.
int64_t rows_per_block(int64_t row_bytes, bool on_cuda);

// The gradients of x [*, in], weight and bias for that of the layer's output, by differentiable operations; undefined
// where they are not wanted.
std::vector<at::Tensor> layer_gradients(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                        at::ArrayRef<bool> wanted);

// x as a matrix of rows.
at::Tensor matrix(const at::Tensor& x);

// weight [out, in] and bias [out], which may be undefined, for x [*, in], all of x's floating dtype and device.
void check_layer(const char* name, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace aevb
