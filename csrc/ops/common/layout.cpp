#include "ops/common/layout.h"

#include <c10/util/strides.h>

#include <algorithm>

#include "ops/common/launch.h"
#include "ops/common/memory.h"

namespace aevb {

at::ScalarType wide_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Type type_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return Type::f64;
    case at::kBFloat16: return Type::bf16;
    case at::kHalf: return Type::f16;
    case at::kByte:
    case at::kBool: return Type::u8;
    case at::kShort: return Type::i16;
    case at::kInt: return Type::i32;
    case at::kLong: return Type::i64;
    default: return Type::f32;
  }
}

namespace {

// A size of the compiler that it knows nothing of is below no other.
bool below(const c10::SymInt& a, const c10::SymInt& b) {
  const auto first = a.maybe_as_int(), second = b.maybe_as_int();
  return first && second ? *first < *second : TORCH_GUARD_OR_FALSE(a.sym_lt(b));
}
bool are_equal(const c10::SymInt& a, const c10::SymInt& b) {
  const auto first = a.maybe_as_int(), second = b.maybe_as_int();
  return first && second ? *first == *second : TORCH_GUARD_OR_FALSE(a.sym_eq(b));
}
bool all_equal(c10::SymIntArrayRef a, c10::SymIntArrayRef b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), are_equal);
}

// PyTorch's order of dimensions (TensorIterator::reorder_dimensions), outermost first: by the strides of the first
// operand that tells two dimensions apart. The first `fixed` dimensions stay where they are.
Order memory_order(c10::SymIntArrayRef sizes, at::ArrayRef<at::Tensor> operands, int64_t fixed = 0) {
  const int64_t dims = int64_t(sizes.size());
  // -1: dimension a comes further inside than b; 1: further outside; 0: nothing says so.
  const auto compared = [&](int64_t a, int64_t b) {
    for (const auto& operand : operands) {
      const int64_t lead = dims - operand.dim();
      if (a < lead || b < lead) continue;
      const auto own = operand.sym_sizes(), strides = operand.sym_strides();
      const auto broadcast = [&](int64_t d) {
        return are_equal(strides[d - lead], 0) || (are_equal(own[d - lead], 1) && !are_equal(sizes[d], 1));
      };
      if (broadcast(a) || broadcast(b)) continue;
      if (below(strides[a - lead], strides[b - lead])) return -1;
      if (below(strides[b - lead], strides[a - lead])) return 1;
      if (below(sizes[b], sizes[a])) return 1;
    }
    return 0;
  };
  Order inside_out;
  for (int64_t d = dims - 1; d >= fixed; --d) inside_out.push_back(d);
  for (int64_t i = 1; i < int64_t(inside_out.size()); ++i)
    for (int64_t at = i, before = i - 1; before >= 0; --before) {
      const int comparison = compared(inside_out[before], inside_out[at]);
      if (comparison < 0) break;
      if (comparison > 0) std::swap(inside_out[before], inside_out[at]), at = before;
    }
  Order order;
  for (int64_t d = 0; d < fixed; ++d) order.push_back(d);
  order.append(inside_out.rbegin(), inside_out.rend());
  return order;
}

bool is_logical(const Order& order) {
  for (size_t d = 0; d < order.size(); ++d)
    if (order[d] != int64_t(d)) return false;
  return true;
}

c10::SymDimVector dense_strides(c10::SymIntArrayRef sizes, const Order& order) {
  c10::SymDimVector strides(sizes.size(), 1);
  c10::SymInt stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    const int64_t d = order.empty() ? int64_t(i) : order[i];
    strides[d] = stride;
    stride *= sizes[d];
  }
  return strides;
}

bool is_known(const at::Tensor& t) { return !t.unsafeGetTensorImpl()->has_symbolic_sizes_strides(); }

// The strides of an elementwise result, by the rules of PyTorch's TensorIterator; empty: contiguous.
c10::SymDimVector elementwise_strides(c10::SymIntArrayRef sizes, at::ArrayRef<at::Tensor> operands) {
  const auto all = [&](auto condition) { return std::all_of(operands.begin(), operands.end(), condition); };
  if (all([](const at::Tensor& t) { return t.is_contiguous_or_false(); })) return {};
  if (all([&](const at::Tensor& t) { return all_equal(t.sym_sizes(), sizes); })) {
    const at::Tensor& first = operands[0];
    if (sizes.size() == 4 &&
        all([](const at::Tensor& t) { return t.is_contiguous_or_false(at::MemoryFormat::ChannelsLast); }))
      return dense_strides(sizes, {0, 2, 3, 1});
    if (all([&](const at::Tensor& t) {
          return is_known(t) && t.is_non_overlapping_and_dense() && all_equal(t.sym_strides(), first.sym_strides());
        }))
      return c10::SymDimVector(first.sym_strides().begin(), first.sym_strides().end());
  }
  const Order order = memory_order(sizes, operands);
  return is_logical(order) ? c10::SymDimVector() : dense_strides(sizes, order);
}

// Merges the dimensions of a tensor (of sizes `own`) that is read at every index of `sizes`: whether they become few
// enough.
bool merge(at::IntArrayRef own, at::IntArrayRef strides, at::IntArrayRef sizes, const Order& order, Input& into) {
  const int64_t lead = int64_t(sizes.size()) - int64_t(own.size());
  int dims = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t d = order.empty() ? int64_t(i) : order[i], size = sizes[d];
    if (size == 1) continue;
    const int64_t stride = d < lead || own[d - lead] == 1 ? 0 : strides[d - lead];
    // The outer dimension's stride is exactly this one's extent: merge them.
    if (dims && into.stride[dims - 1] == stride * size) {
      into.size[dims - 1] *= size;
      into.stride[dims - 1] = stride;
      continue;
    }
    if (dims == kMaxDims) return false;
    into.size[dims] = size;
    into.stride[dims++] = stride;
  }
  if (!dims) into.size[dims] = 1, into.stride[dims++] = 1;
  into.dims = dims;
  return true;
}

}  // namespace

at::Tensor empty_in_order(at::IntArrayRef sizes, const Order& order, const at::TensorOptions& options) {
  const auto known = c10::fromIntArrayRefSlow(sizes);
  return order.empty() ? empty(known, options) : empty_strided(known, dense_strides(known, order), options);
}

Order loop_order(at::ArrayRef<at::Tensor> operands, int64_t free_dims) {
  const at::Tensor& full = operands[0];
  for (const auto& operand : operands) {
    if (operand.is_contiguous() || operand.sizes() != full.sizes()) continue;
    Order order = memory_order(full.sym_sizes(), operand, full.dim() - free_dims);
    if (!is_logical(order) && (full.dim() <= kMaxDims || logical_indices(full.sizes(), order).dims)) return order;
  }
  return {};
}

Order with_outer_dim(const Order& order) {
  Order all;
  if (order.empty()) return all;
  all.push_back(0);
  for (const int64_t d : order) all.push_back(d + 1);
  return all;
}

Input describe(at::Tensor& t, at::IntArrayRef sizes, const Order& order) {
  Input input;
  if (!merge(t.sizes(), t.strides(), sizes, order, input)) {
    t = empty_in_order(sizes, order, t.options()).copy_(t);
    merge(t.sizes(), t.strides(), sizes, order, input);
  }
  input.data = t.const_data_ptr();
  input.type = type_of(t.scalar_type());
  return input;
}

Input logical_indices(at::IntArrayRef sizes, const Order& order) {
  Input indices;
  // Too many dimensions: no order that `loop_order` chooses.
  if (!order.empty() && !merge(sizes, c10::contiguous_strides(sizes), sizes, order, indices)) indices.dims = 0;
  return indices;
}

at::Tensor empty_elementwise(c10::SymIntArrayRef sizes, at::ArrayRef<at::Tensor> operands,
                             const at::TensorOptions& options) {
  const auto strides = elementwise_strides(sizes, operands);
  return strides.empty() ? empty(sizes, options) : empty_strided(sizes, strides, options);
}

at::Tensor laid_out_like(const at::Tensor& t, const at::Tensor& operand) {
  if (t.is_contiguous() && operand.is_contiguous()) return t;
  const at::Tensor result = empty_elementwise(t.sym_sizes(), operand, t.options());
  return result.strides() == t.strides() ? t : result.copy_(t);
}

Output Result::output(const Order& order, int64_t event, bool any_layout) {
  Output output;
  if (!tensor_.defined()) return output;
  output.type = type_of(tensor_.scalar_type());
  if (!order.empty() || !tensor_.is_contiguous()) {
    const bool few = merge(tensor_.sizes(), tensor_.strides(), tensor_.sizes(), order, layout_);
    const bool contiguous = few && layout_.dims == 1 && (layout_.stride[0] == 1 || layout_.size[0] == 1);
    const bool rows = layout_.dims == 2 && layout_.size[1] == event && layout_.stride[1] == 1;
    if (!contiguous && few && any_layout && (rows || !runs_cuda(tensor_.device())))
      output.layout = &layout_;
    else if (!contiguous && !in_order_.defined())
      in_order_ = empty_in_order(tensor_.sizes(), order, tensor_.options());
  }
  output.data = (in_order_.defined() ? in_order_ : tensor_).mutable_data_ptr();
  return output;
}

at::Tensor Result::finish() const {
  if (in_order_.defined()) tensor_.copy_(in_order_);
  return tensor_;
}

int64_t run_of_halves(const at::Tensor& first, const at::Tensor& second) {
  const int64_t run = second.storage_offset() - first.storage_offset();
  if (run <= 0 || first.scalar_type() != second.scalar_type() || !first.is_alias_of(second) ||
      first.sizes() != second.sizes() || first.strides() != second.strides() || first.numel() == 0)
    return 0;
  const auto in_runs = [&](const Order& order) {
    Input runs;
    if (!merge(first.sizes(), first.strides(), first.sizes(), order, runs)) return false;
    const int last = runs.dims - 1;
    if (run == 1) return last == 0 && (runs.stride[0] == 2 || runs.size[0] == 1);
    return last <= 1 && runs.size[last] == run && runs.stride[last] == 1 && (last == 0 || runs.stride[0] == 2 * run);
  };
  return in_runs({}) || in_runs(memory_order(first.sym_sizes(), first)) ? run : 0;
}

int64_t run_of_second_half(const at::Tensor& second, int64_t dim) {
  const int64_t run = 0 <= dim && dim < second.dim() ? second.size(dim) * second.stride(dim) : 0;
  const int64_t before = second.storage_offset() - run;
  return run && before >= 0 ? run_of_halves(second.as_strided(second.sizes(), second.strides(), before), second) : 0;
}

std::array<at::Tensor, 2> empty_halves(const at::Tensor& half, int64_t run) {
  const at::Tensor both = empty({c10::SymInt(2 * half.numel())}, half.options());
  return {both.as_strided(half.sizes(), half.strides(), 0), both.as_strided(half.sizes(), half.strides(), run)};
}

}  // namespace aevb
