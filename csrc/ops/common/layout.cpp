#include "ops/common/layout.h"

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
    default: return Type::f32;
  }
}

Input describe(at::Tensor& t, at::IntArrayRef sizes) {
  Input input;
  input.data = t.const_data_ptr();
  input.type = type_of(t.scalar_type());
  const int64_t lead = int64_t(sizes.size()) - t.dim();
  int dims = 0;
  for (int64_t d = 0; d < int64_t(sizes.size()); ++d) {
    const int64_t size = sizes[d];
    if (size == 1) continue;
    const int64_t stride = d < lead || t.size(d - lead) == 1 ? 0 : t.stride(d - lead);
    // The outer dimension's stride is exactly this one's extent: merge them.
    if (dims && input.stride[dims - 1] == stride * size) {
      input.size[dims - 1] *= size;
      input.stride[dims - 1] = stride;
      continue;
    }
    if (dims == kMaxDims) {
      t = t.expand(sizes).contiguous();
      return describe(t, sizes);
    }
    input.size[dims] = size;
    input.stride[dims++] = stride;
  }
  if (!dims) input.size[dims] = 1, input.stride[dims++] = 1;
  input.dims = dims;
  return input;
}

namespace {

// The rows of a half: `event` contiguous elements, and as many of the other half's between two rows.
bool is_half(const at::Tensor& t, int64_t event) {
  if (event == 0 || t.numel() == 0) return false;
  at::Tensor same = t;
  const Input rows = describe(same, t.sizes());
  const int last = rows.dims - 1;
  return last <= 1 && rows.size[last] == event && rows.stride[last] == 1 && (last == 0 || rows.stride[0] == 2 * event);
}

}  // namespace

bool are_halves(const at::Tensor& first, const at::Tensor& second, int64_t event) {
  return first.scalar_type() == second.scalar_type() && first.is_alias_of(second) && first.sizes() == second.sizes() &&
         first.strides() == second.strides() && second.storage_offset() == first.storage_offset() + event &&
         is_half(first, event);
}

std::array<at::Tensor, 2> empty_halves(const at::Tensor& half, int64_t event) {
  const at::Tensor both = empty({c10::SymInt(2 * half.numel())}, half.options());
  return {both.as_strided(half.sizes(), half.strides(), 0), both.as_strided(half.sizes(), half.strides(), event)};
}

}  // namespace aevb
