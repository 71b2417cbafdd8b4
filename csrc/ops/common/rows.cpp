#include "ops/common/rows.h"

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <c10/util/hash.h>

#include <limits>

#include "ops/common/launch.h"
#include "ops/common/memory.h"

namespace aevb {
namespace {

// The sizes of the rows: those of `full` without the event.
c10::SymDimVector row_sizes(const at::Tensor& full, int64_t event_dims) {
  const auto sizes = full.sym_sizes();
  return c10::SymDimVector(sizes.begin(), sizes.end() - event_dims);
}

RowCall call_of(RowProblem& problem) {
  const auto sizes = problem.shape_of().sizes();
  RowCall call = {};
  call.formula = problem.formula;
  call.params = problem.params;
  set_shape(call, problem.shape_of(), problem.event_dims);
  for (size_t k = 0; k < problem.operands.size(); ++k) call.in[k] = describe(problem.operands[k], sizes);
  return call;
}

}  // namespace

at::Tensor empty_values(const at::Tensor& full, int64_t event_dims, bool per_element) {
  const auto options = full.options().dtype(wide_type(full));
  if (per_element) return empty(full.sym_sizes(), options);
  auto sizes = row_sizes(full, event_dims);
  if (!full.is_meta()) {
    const int64_t blocks = blocks_of(c10::multiply_integers(full.sizes().slice(sizes.size())));
    if (blocks != 1) sizes.push_back(blocks);
  }
  return empty(sizes, options);
}

at::Tensor reduce(at::Tensor values, const at::Tensor& full, int64_t event_dims, Reduction reduction) {
  if (reduction == Reduction::none) return values;
  if (values.dim() > full.dim() - event_dims) values = values.sum(-1);
  switch (reduction) {
    case Reduction::sum: return values.sum();
    case Reduction::mean: return values.mean();
    default: return values;
  }
}

at::Tensor over_event(const at::Tensor& cotangent, const at::Tensor& full, int64_t event_dims, Reduction reduction) {
  if (reduction != Reduction::sample) return cotangent;
  auto sizes = row_sizes(full, event_dims);
  sizes.resize(full.dim(), 1);
  return cotangent.reshape_symint(sizes);
}

at::Tensor differentiable_cotangent(const at::Tensor& cotangent, const at::Tensor& full, int64_t event_dims,
                                    Reduction reduction) {
  at::Tensor g = over_event(cotangent, full, event_dims, reduction).to(wide_type(full));
  if (reduction != Reduction::mean) return g;
  c10::SymInt rows = 1;
  for (const auto& size : row_sizes(full, event_dims)) rows *= size;
  return g / c10::Scalar(rows);
}

void check_cotangent(const char* name, const at::Tensor& cotangent, const at::Tensor& full, int64_t event_dims,
                     Reduction reduction) {
  check_floating(name, cotangent);
  check_same_device(name, cotangent, "the operands", full);
  c10::SymDimVector expected;
  if (reduction == Reduction::none) expected.assign(full.sym_sizes().begin(), full.sym_sizes().end());
  if (reduction == Reduction::sample) expected = row_sizes(full, event_dims);
  TORCH_CHECK_VALUE(cotangent.sym_sizes() == c10::SymIntArrayRef(expected), name, " has shape ", cotangent.sym_sizes(),
                    ": expected that of the values, ", c10::SymIntArrayRef(expected));
}

OperandGradient::OperandGradient(const at::Tensor& operand, const at::Tensor& full, int64_t event_dims, bool wanted)
    : operand_(operand) {
  if (!wanted) return;
  const auto own = operand.sym_sizes(), all = full.sym_sizes();
  final_ = full.is_meta() || (own == all && operand.scalar_type() == full.scalar_type());
  if (final_) {
    buffer_ = empty(own, operand.options());
    return;
  }
  // An operand with one number for a whole event (a learned scalar, one per data point): its gradient is a row sum.
  per_block_ = event_dims > 0;
  for (int64_t d = 0; d < std::min<int64_t>(event_dims, operand.dim()); ++d)
    per_block_ = per_block_ && own[own.size() - 1 - d] == 1;
  buffer_ = empty_values(full, event_dims, !per_block_);
}

Output OperandGradient::output() const {
  if (!buffer_.defined()) return {};
  return {buffer_.mutable_data_ptr(), type_of(buffer_.scalar_type()), per_block_, row_gap_};
}

at::Tensor OperandGradient::finish(const at::Tensor& full, int64_t event_dims) const {
  if (final_) return buffer_;
  if (!per_block_) return as_operand(buffer_, operand_);
  const at::Tensor rows = reduce(buffer_, full, event_dims, Reduction::sample);
  return as_operand(over_event(rows, full, event_dims, Reduction::sample), operand_);
}

at::Tensor narrowed(const at::Tensor& gradient, at::ScalarType type) {
  const auto largest = [](at::ScalarType t) {
    switch (t) {
      case at::kDouble: return double(std::numeric_limits<double>::max());
      case at::kBFloat16: return double(std::numeric_limits<at::BFloat16>::max());
      case at::kHalf: return double(std::numeric_limits<at::Half>::max());
      default: return double(std::numeric_limits<float>::max());
    }
  };
  const double most = largest(type);
  if (!is_floating(type) || most >= largest(gradient.scalar_type())) return gradient.to(type);
  return at::where(gradient.isinf(), gradient, gradient.clamp(-most, most)).to(type);
}

at::Tensor as_operand(const at::Tensor& gradient, const at::Tensor& operand) {
  return narrowed(gradient.sum_to_size_symint(operand.sym_sizes()), operand.scalar_type());
}

namespace {

// One pass over a problem: its values, the gradients for a cotangent, or both.
std::tuple<at::Tensor, std::vector<at::Tensor>> pass(RowProblem problem, bool with_values, at::Tensor cotangent,
                                                     at::ArrayRef<bool> wanted, bool paired) {
  const at::Tensor full = problem.shape_of();
  const bool per_element = problem.reduction == Reduction::none;
  at::Tensor values;
  std::vector<OperandGradient> gradients;
  if (with_values) values = empty_values(full, problem.event_dims, per_element);
  for (size_t k = 0; k < problem.operands.size() && k < wanted.size(); ++k) {
    const bool two = paired && k + 1 < wanted.size() && k + 1 < problem.operands.size() && wanted[k] && wanted[k + 1];
    const int64_t event = two ? c10::multiply_integers(full.sizes().slice(full.dim() - problem.event_dims)) : 0;
    if (two && are_halves(problem.operands[k], problem.operands[k + 1], event)) {
      for (const auto& half : empty_halves(problem.operands[k], event)) gradients.emplace_back(half, event);
      ++k;
    } else {
      gradients.emplace_back(problem.operands[k], full, problem.event_dims, wanted[k]);
    }
  }
  if (!full.is_meta()) {
    RowCall call = call_of(problem);
    if (with_values) call.value = {values.mutable_data_ptr(), call.wide, !per_element};
    if (cotangent.defined()) {
      // One number for all rows.
      if (cotangent.dim() > 0) cotangent = over_event(cotangent, full, problem.event_dims, problem.reduction);
      cotangent = cotangent.to(wide_type(full));
      call.cotangent = describe(cotangent, full.sizes());
      if (problem.reduction == Reduction::mean) call.cotangent_scale = 1.0 / double(call.rows);
    }
    for (size_t k = 0; k < gradients.size(); ++k) call.gradient[k] = gradients[k].output();
    rows(call, full.device());
  }
  if (with_values) values = reduce(values, full, problem.event_dims, problem.reduction);
  std::vector<at::Tensor> finished;
  for (const auto& gradient : gradients) finished.push_back(gradient.finish(full, problem.event_dims));
  return {values, std::move(finished)};
}

}  // namespace

at::Tensor row_values(const RowProblem& problem) { return std::get<0>(pass(problem, true, {}, {}, false)); }

std::vector<at::Tensor> row_gradients(const RowProblem& problem, const at::Tensor& cotangent, at::ArrayRef<bool> wanted,
                                      bool paired) {
  return std::get<1>(pass(problem, false, cotangent, wanted, paired));
}

std::optional<size_t> history_key(const RowProblem& problem) {
  return history_key(problem.formula, problem.reduction, problem.shape_of());
}

std::optional<size_t> history_key(Formula formula, Reduction reduction, const at::Tensor& full) {
  if (reduction == Reduction::none || full.numel() == 0) return std::nullopt;
  size_t hash = c10::get_hash(int(formula), int(reduction), int(full.scalar_type()));
  for (const int64_t size : full.sizes()) hash = c10::hash_combine(hash, size_t(size));
  return hash;
}

std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const RowProblem& problem, double cotangent,
                                                                     at::ArrayRef<bool> wanted, bool paired) {
  return pass(problem, true, at::scalar_tensor(cotangent, at::dtype(wide_type(problem.shape_of()))), wanted, paired);
}

}  // namespace aevb
