// A linear layer and its matrix products, by the fastest library available: for float32 on the CPU that is oneDNN,
// which comes with PyTorch.
//
// nn.Linear uses MKL, which withholds its AVX-512 kernels from CPUs of other vendors than Intel. On a Zen 5 with two
// threads oneDNN computes the products of a 784-500-784 layer at 350 to 440 GFLOP/s, MKL at 155 to 195.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace aevb {

// a b
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);

// act(x w^T + bias), where act is tanh or nothing
at::Tensor activated_layer(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias, bool tanh);

// Into existing memory: result = a b, or with `add` result + a b. A half-precision product may be accumulated in
// float32.
void multiply(const at::Tensor& a, const at::Tensor& b, const at::Tensor& result, bool add = false);

// result = act(x w^T + bias); bias may be undefined.
void layer(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const at::Tensor& result,
           bool tanh = false);

// Bytes (or bools) as numbers of a floating dtype, multiplied by `x_scale`.
at::Tensor scaled(const at::Tensor& bytes, at::ScalarType dtype, double x_scale);

// The gradient by the output before tanh, given y, which may be undefined: there is no tanh.
struct OutputGradient {
  at::Tensor gradient, bias;  // a matrix, and its sum over the rows, undefined if it is not wanted
};
OutputGradient output_gradient(const at::Tensor& cotangent, const at::Tensor& y, bool with_bias);

// The number of rows in a block, given the bytes of a row. On the CPU a block should stay in the caches beside the
// weights. But adding a block to the weight's gradient reads and writes all of that gradient, so a block needs enough
// rows. A GPU needs much work at once.
int64_t rows_per_block(int64_t row_bytes, bool on_cuda);

// The gradients of x [*, in], weight and bias, given that of the layer's output, by differentiable operations;
// undefined if they are not wanted.
std::vector<at::Tensor> layer_gradients(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                        at::ArrayRef<bool> wanted);

// x as a matrix of rows.
at::Tensor matrix(const at::Tensor& x);

// weight [out, in] and bias [out], which may be undefined, for x [*, in], all of x's floating dtype and device.
void check_layer(const char* name, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace aevb
