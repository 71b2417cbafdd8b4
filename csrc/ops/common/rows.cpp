#include "ops/common/rows.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sum_cpu_dispatch.h>
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

RowCall call_of(RowProblem& problem, const Order& order) {
  const auto sizes = problem.shape_of().sizes();
  RowCall call = {};
  call.formula = problem.formula;
  call.params = problem.params;
  set_shape(call, problem.shape_of(), problem.event_dims);
  for (size_t k = 0; k < problem.operands.size(); ++k) call.in[k] = describe(problem.operands[k], sizes, order);
  return call;
}

// Whether the last `event_dims` dimensions of an operand have one number.
bool is_per_row(const at::Tensor& operand, int64_t event_dims) {
  const auto sizes = operand.sizes();
  for (int64_t d = 0; d < std::min<int64_t>(event_dims, operand.dim()); ++d)
    if (sizes[sizes.size() - 1 - d] != 1) return false;
  return event_dims > 0;
}

// Whether an operand has the same numbers in all rows, one for each element of a row or some of them.
bool is_per_feature(const at::Tensor& operand, const at::Tensor& full, int64_t event_dims) {
  const auto sizes = operand.sizes();
  for (int64_t d = 0; d < operand.dim() - event_dims; ++d)
    if (sizes[d] != 1) return false;
  return full.dim() > event_dims && operand.numel() > 1 && sizes != full.sizes() && !is_per_row(operand, event_dims);
}

// So many rows are summed by one thread, on the CPU: few, that threads have work, and many, that the sums are a small
// part of what would be the gradient of each row. Of short rows as many as are computed together.
int64_t rows_per_sum(const RowProblem& problem) {
  const at::Tensor& full = problem.shape_of();
  if (full.is_meta() || runs_cuda(full.device())) return 0;
  const int64_t event = c10::multiply_integers(full.sizes().slice(full.dim() - problem.event_dims));
  const int64_t rows = event ? full.numel() / event : 0;
  return std::max(std::clamp<int64_t>(rows / 32, 8, 64), 512 / std::max<int64_t>(event, 1));
}

// Whether the kernels write the gradient of an operand as the operand is; else in the type of the arithmetic.
bool is_as_operand(const at::Tensor& operand, const at::Tensor& full) {
  return operand.sym_sizes() == full.sym_sizes() && operand.scalar_type() == full.scalar_type();
}

// That of the parameters before that of the data, of which there is less to read and write.
Order order_of(const RowProblem& problem) {
  const at::Tensor& full = problem.shape_of();
  if (full.is_meta()) return {};
  const bool contiguous = std::all_of(problem.operands.begin(), problem.operands.end(),
                                      [](const at::Tensor& t) { return t.is_contiguous(); });
  if (contiguous) return {};
  std::vector<at::Tensor> operands = problem.operands;
  std::rotate(operands.begin(), operands.begin() + problem.full, operands.end());
  // The kernels in cuda/ take the dimensions of a row apart from those of its elements, and so do sums over rows.
  const bool rows_apart = runs_cuda(full.device()) || std::any_of(operands.begin(), operands.end(), [&](const auto& t) {
                            return is_per_feature(t, full, problem.event_dims);
                          });
  return loop_order(operands,
                    rows_apart ? problem.event_dims : free_dims(operands, full, problem.event_dims, problem.reduction));
}

}  // namespace

at::Tensor empty_values(const at::Tensor& full, int64_t event_dims, bool per_element,
                        at::ArrayRef<at::Tensor> operands) {
  const auto options = full.options().dtype(wide_type(full));
  if (per_element) return empty_elementwise(full.sym_sizes(), operands, options);
  auto sizes = row_sizes(full, event_dims);
  if (!full.is_meta()) {
    const int64_t blocks = blocks_of(c10::multiply_integers(full.sizes().slice(sizes.size())));
    if (blocks != 1) sizes.push_back(blocks);
  }
  return empty(sizes, options);
}

namespace {

// values.sum(), without the dispatcher, which takes as long as summing a hundred rows.
at::Tensor sum_of(const at::Tensor& values) {
  return values.is_cpu() ? at::cpu::sum(values, at::IntArrayRef()) : values.sum();
}

// values.mean(), in whose memory there is one number to divide: torch's division of it takes longer than the sum.
at::Tensor mean_of(const at::Tensor& values) {
  if (!values.is_cpu()) return values.mean();
  const at::Tensor sum = sum_of(values);
  const int64_t count = values.numel();
  if (sum.scalar_type() == at::kDouble)
    *sum.mutable_data_ptr<double>() /= double(count);
  else
    *sum.mutable_data_ptr<float>() /= float(count);
  return sum;
}

}  // namespace

at::Tensor reduce(at::Tensor values, const at::Tensor& full, int64_t event_dims, Reduction reduction) {
  if (reduction == Reduction::none) return values;
  if (values.dim() > full.dim() - event_dims) values = values.sum(-1);
  switch (reduction) {
    case Reduction::sum: return sum_of(values);
    case Reduction::mean: return mean_of(values);
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

int64_t free_dims(at::ArrayRef<at::Tensor> operands, const at::Tensor& full, int64_t event_dims, Reduction reduction) {
  if (reduction == Reduction::sample) return event_dims;
  const bool any_per_row = std::any_of(operands.begin(), operands.end(), [&](const at::Tensor& operand) {
    return operand.defined() && operand.numel() != 1 && is_per_row(operand, event_dims);
  });
  return any_per_row ? event_dims : full.dim();
}

OperandGradient::OperandGradient(const at::Tensor& operand, const at::Tensor& full, int64_t event_dims, bool wanted,
                                 Order order, int64_t rows_per_sum)
    : operand_(operand), order_(std::move(order)) {
  if (!wanted) return;
  if (full.is_meta() || is_as_operand(operand, full)) {
    result_ = Result(empty_elementwise(operand.sym_sizes(), operand, operand.options()));
    return;
  }
  // An operand with one number for a whole event (a learned scalar, one per data point): its gradient is a row sum.
  per_block_ = is_per_row(operand, event_dims);
  if (per_block_) {
    buffer_ = empty_values(full, event_dims, false);
    return;
  }
  if (is_per_feature(operand, full, event_dims)) rows_per_sum_ = rows_per_sum;
  const auto options = full.options().dtype(wide_type(full));
  if (!rows_per_sum_) {
    buffer_ = empty_in_order(full.sizes(), order_, options);
    return;
  }
  // The event's dimensions in the order of the loop, which goes through rows one after the other.
  const int64_t row_dims = full.dim() - event_dims;
  const int64_t rows = c10::multiply_integers(full.sizes().slice(0, row_dims));
  std::vector<int64_t> sizes = full.sizes().slice(row_dims).vec();
  sizes.insert(sizes.begin(), (rows + rows_per_sum_ - 1) / rows_per_sum_);
  Order of_event;
  for (const int64_t d : order_)
    if (d >= row_dims) of_event.push_back(d - row_dims);
  buffer_ = empty_in_order(sizes, with_outer_dim(of_event), options);
}

Output OperandGradient::output(int64_t event) {
  if (!buffer_.defined()) return result_.output(order_, event);
  return {buffer_.mutable_data_ptr(), type_of(buffer_.scalar_type()), per_block_, nullptr, rows_per_sum_};
}

at::Tensor OperandGradient::finish(const at::Tensor& full, int64_t event_dims) const {
  if (!buffer_.defined()) return result_.finish();
  if (rows_per_sum_) {
    std::vector<int64_t> sizes = buffer_.sizes().vec();
    sizes.insert(sizes.begin() + 1, full.dim() - event_dims - 1, 1);
    return laid_out_like(as_operand(buffer_.view(sizes), operand_), operand_);
  }
  if (!per_block_) return laid_out_like(as_operand(buffer_, operand_), operand_);
  const at::Tensor rows = reduce(buffer_, full, event_dims, Reduction::sample);
  return laid_out_like(as_operand(over_event(rows, full, event_dims, Reduction::sample), operand_), operand_);
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

// One for each operand; of a pair of them, if `paired`, the halves of one tensor.
std::vector<OperandGradient> empty_gradients(const RowProblem& problem, at::ArrayRef<bool> wanted, bool paired,
                                             const Order& order) {
  std::vector<OperandGradient> gradients;
  const auto& operands = problem.operands;
  for (size_t k = 0; k < operands.size() && k < wanted.size(); ++k) {
    const bool two = paired && k + 1 < wanted.size() && k + 1 < operands.size() && wanted[k] && wanted[k + 1];
    const bool full = is_as_operand(operands[k], problem.shape_of());  // halves that are broadcast are summed
    if (const int64_t run = two && full ? run_of_halves(operands[k], operands[k + 1]) : 0) {
      for (const auto& half : empty_halves(operands[k], run)) gradients.emplace_back(half, order);
      ++k;
    } else {
      gradients.emplace_back(operands[k], problem.shape_of(), problem.event_dims, wanted[k], order,
                             rows_per_sum(problem));
    }
  }
  return gradients;
}

// `cotangent` is replaced by what the call points to.
void set_cotangent(RowCall& call, const RowProblem& problem, at::Tensor& cotangent, const Order& order) {
  const at::Tensor& full = problem.shape_of();
  // One number for all rows.
  if (cotangent.dim() > 0) cotangent = over_event(cotangent, full, problem.event_dims, problem.reduction);
  cotangent = cotangent.to(wide_type(full));
  call.cotangent = describe(cotangent, full.sizes(), order);
}

double cotangent_scale(const RowCall& call, Reduction reduction) {
  return reduction == Reduction::mean ? 1.0 / double(call.rows) : 1;
}

// One pass over a problem: its values, the gradients for a cotangent, or both.
std::tuple<at::Tensor, std::vector<at::Tensor>> pass(RowProblem problem, bool with_values, at::Tensor cotangent,
                                                     at::ArrayRef<bool> wanted, bool paired) {
  const at::Tensor full = problem.shape_of();
  const bool per_element = problem.reduction == Reduction::none;
  const Order order = order_of(problem);
  at::Tensor values;
  Result elements;
  if (with_values) values = empty_values(full, problem.event_dims, per_element, problem.operands);
  std::vector<OperandGradient> gradients = empty_gradients(problem, wanted, paired, order);
  if (!full.is_meta()) {
    RowCall call = call_of(problem, order);
    if (with_values && per_element)
      call.value = (elements = Result(values)).output(order, call.event);
    else if (with_values)
      call.value = {values.mutable_data_ptr(), call.wide, true};
    if (cotangent.defined()) {
      set_cotangent(call, problem, cotangent, order);
      call.cotangent_scale = cotangent_scale(call, problem.reduction);
    }
    for (size_t k = 0; k < gradients.size(); ++k) call.gradient[k] = gradients[k].output(call.event);
    rows(call, full.device());
    if (with_values && per_element) elements.finish();
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

struct GuessedGradients {
  std::vector<OperandGradient> of_operands;
  c10::SmallVector<bool, 4> computed;
  at::Tensor guesses;  // one for each block of each row

  Guesses of_call(const RowProblem& problem) const {
    return {guesses.mutable_data_ptr(), int(*history_key(problem) % kHistories)};
  }
};

bool guesses_cotangents(const RowProblem& problem) { return guesses_cotangents(problem.shape_of().device()); }

std::tuple<at::Tensor, std::shared_ptr<GuessedGradients>> values_and_guessed_gradients(const RowProblem& given,
                                                                                       at::ArrayRef<bool> wanted,
                                                                                       bool paired) {
  RowProblem problem = given;
  const at::Tensor full = problem.shape_of();
  const Order order = order_of(problem);
  // A gradient that is a sum over a row would be summed in another order than without a guess.
  for (size_t k = 0; k < problem.operands.size() && k < wanted.size(); ++k)
    if (const auto& t = problem.operands[k]; wanted[k] && !is_as_operand(t, full) && is_per_row(t, problem.event_dims))
      return {};
  auto guessed = std::make_shared<GuessedGradients>();
  guessed->of_operands = empty_gradients(problem, wanted, paired, order);
  guessed->computed.assign(wanted.begin(), wanted.end());
  at::Tensor values = empty_values(full, problem.event_dims, false);
  guessed->guesses = at::empty_like(values);
  RowCall call = call_of(problem, order);
  call.value = {values.mutable_data_ptr(), call.wide, true};
  call.cotangent_scale = cotangent_scale(call, problem.reduction);
  for (size_t k = 0; k < guessed->of_operands.size(); ++k)
    call.gradient[k] = guessed->of_operands[k].output(call.event);
  call.guesses = guessed->of_call(problem);
  rows(call, full.device());
  return {reduce(values, full, problem.event_dims, problem.reduction), std::move(guessed)};
}

std::optional<std::vector<at::Tensor>> gradients_after_guess(const RowProblem& given, const at::Tensor& of_values,
                                                             GuessedGradients& guessed, at::ArrayRef<bool> wanted) {
  RowProblem problem = given;
  const at::Tensor full = problem.shape_of();
  const Order order = order_of(problem);
  auto& gradients = guessed.of_operands;
  for (size_t k = 0; k < gradients.size(); ++k)
    if (wanted[k] && !guessed.computed[k]) return std::nullopt;
  RowCall call = call_of(problem, order);
  at::Tensor cotangent = of_values;
  set_cotangent(call, problem, cotangent, order);
  call.cotangent_scale = cotangent_scale(call, problem.reduction);
  for (size_t k = 0; k < gradients.size(); ++k)
    if (wanted[k]) call.gradient[k] = gradients[k].output(call.event);
  call.guesses = guessed.of_call(problem);
  rows(call, full.device());
  std::vector<at::Tensor> finished(gradients.size());
  for (size_t k = 0; k < gradients.size(); ++k)
    if (wanted[k]) finished[k] = gradients[k].finish(full, problem.event_dims);
  return finished;
}

}  // namespace aevb
