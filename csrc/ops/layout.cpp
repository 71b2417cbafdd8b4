#include "ops/layout.h"

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
    // The dimension before steps over exactly this one: they are one.
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

}  // namespace aevb
