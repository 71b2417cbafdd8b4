// Checks of the operators' arguments. Every message names the argument, what was given and what is expected. Shapes are
// symbolic, so that the same checks serve the compiler's fake tensors.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <string_view>

#include "call.h"

namespace aevb {

enum class Reduction { none, sample, sum, mean };

Reduction parse_reduction(std::string_view name);
Spread parse_spread(std::string_view name);

// float64, float32, bfloat16 or float16
bool is_floating(at::ScalarType type);
void check_floating(const char* name, const at::Tensor& t);
// The dtypes of a likelihood's data: floating, uint8 or bool; of counts also int16, int32 or int64
void check_counts(const char* name, const at::Tensor& t);
void check_data(const char* name, const at::Tensor& t);
void check_same_device(const char* name, const at::Tensor& t, const char* other_name, const at::Tensor& other);
// Floating, with the device and dtype of `other`, and broadcasting to its shape
void check_like(const char* name, const at::Tensor& t, const char* other_name, const at::Tensor& other);
// Broadcasting to the last dimensions of `other`
void check_broadcasts(const char* name, const at::Tensor& t, const char* other_name, const at::Tensor& other);
void check_batch_dims(int64_t batch_dims, const char* name, const at::Tensor& t);
// int64 [2], or [*batch, 2] where `batch` are leading sizes of the data points, `most` of them at most
void check_key(const at::Tensor& key, const at::Tensor& points, int64_t most, const char* name = "mu");
void check_samples(const std::optional<c10::SymInt>& n_samples, const c10::SymInt& first_sample);

}  // namespace aevb
