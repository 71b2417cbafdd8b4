#include "ops/positions.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/hash.h>

#include "ops/common/launch.h"
#include "ops/common/memory.h"

namespace aevb {
namespace {

using at::Tensor;

// The vectors of `t` along a dimension, at positions of these sizes. `t` is replaced by a copy if it has too many
// dimensions for a description.
Vectors vectors_of(Tensor& t, int64_t dim, at::IntArrayRef sizes) {
  Tensor first = t.select(dim, 0);
  const void* const data = first.const_data_ptr();
  Input input = describe(first, sizes);
  if (input.data != data) {
    t = t.contiguous();
    first = t.select(dim, 0);
    input = describe(first, sizes);
  }
  return {input, t.stride(dim)};
}

// A gradient and, if that has too many dimensions for a description, the contiguous tensor that the kernel writes.
struct Gradient {
  Tensor result, written;

  Vectors vectors(int64_t dim, at::IntArrayRef sizes) {
    written = result;
    return vectors_of(written, dim, sizes);
  }
  Tensor finish() const {
    if (written.defined() && !written.is_same(result)) result.copy_(written);
    return result;
  }
};

// One pass: the values, the gradient for a cotangent, or both.
std::tuple<Tensor, Tensor> pass(const PositionProblem& problem, bool with_values, Tensor cotangent,
                                bool with_gradient) {
  const Tensor full = problem.shape_of();
  const bool per_position = problem.reduction == Reduction::none, on_device = runs_cuda(full.device());
  Tensor values;
  Gradient gradient;
  if (with_gradient)
    gradient.result =
        empty_elementwise(problem.parameters.sym_sizes(), problem.parameters, problem.parameters.options());
  PositionCall call = {};
  if (!full.is_meta()) {
    set_shape(call, full, problem.event_dims);
    call.block = on_device ? 1 : kPositions;
    call.blocks = on_device ? call.event : (call.event + kPositions - 1) / kPositions;
  }
  if (with_values) {
    auto sizes = full.sym_sizes().vec();
    if (!per_position) sizes.resize(sizes.size() - problem.event_dims);
    if (!per_position && !full.is_meta() && call.blocks != 1) sizes.push_back(call.blocks);
    values = empty(sizes, full.options().dtype(wide_type(full)));
  }
  if (!full.is_meta() && full.numel() > 0) {
    call.formula = problem.formula;
    Tensor x = problem.x, parameters = problem.parameters;
    call.size = parameters.size(problem.dim);
    call.parameters = vectors_of(parameters, problem.dim, full.sizes());
    if (problem.x_has_colours)
      call.x = vectors_of(x, problem.dim, full.sizes());
    else
      call.x.first = describe(x, full.sizes());
    if (with_values) call.value = {values.mutable_data_ptr(), call.wide, !per_position};
    if (cotangent.defined()) {
      if (cotangent.dim() > 0) cotangent = over_event(cotangent, full, problem.event_dims, problem.reduction);
      cotangent = cotangent.to(wide_type(full));
      call.cotangent = describe(cotangent, full.sizes());
      if (problem.reduction == Reduction::mean) call.cotangent_scale = 1.0 / double(call.rows);
    }
    if (with_gradient) {
      call.gradient_layout = gradient.vectors(problem.dim, full.sizes());
      call.gradient = gradient.written.mutable_data_ptr();
      call.gradient_layout.first.data = nullptr;
    }
    positions(call, full.device());
  }
  if (with_values) values = reduce(values, full, problem.event_dims, problem.reduction);
  return {values, gradient.finish()};
}

}  // namespace

Tensor row_values(const PositionProblem& problem) { return std::get<0>(pass(problem, true, {}, false)); }

std::vector<Tensor> row_gradients(const PositionProblem& problem, const Tensor& cotangent, at::ArrayRef<bool> wanted,
                                  bool) {
  return {Tensor(), wanted[1] ? std::get<1>(pass(problem, false, cotangent, true)) : Tensor()};
}

std::optional<size_t> history_key(const PositionProblem& problem) {
  const Tensor& of = problem.parameters;
  if (problem.reduction == Reduction::none || of.numel() == 0) return std::nullopt;
  // The numbers of the formulas of single elements come before.
  size_t hash = c10::get_hash(-1 - int(problem.formula), int(problem.reduction), int(of.scalar_type()));
  for (const int64_t size : of.sizes()) hash = c10::hash_combine(hash, size_t(size));
  return hash;
}

std::tuple<Tensor, std::vector<Tensor>> values_and_gradients(const PositionProblem& problem, double cotangent,
                                                             at::ArrayRef<bool> wanted, bool) {
  const Tensor g = at::scalar_tensor(cotangent, at::dtype(wide_type(problem.parameters)));
  const auto [values, gradient] = pass(problem, true, g, wanted[1]);
  return {values, {Tensor(), gradient}};
}

}  // namespace aevb
