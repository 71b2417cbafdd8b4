#include "ops/common/packed.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "ops/common/memory.h"
#include "ops/common/speculative_gradient.h"

namespace aevb {
namespace {

bool known_equal(c10::SymIntArrayRef a, c10::SymIntArrayRef b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const c10::SymInt& x, const c10::SymInt& y) {
    return TORCH_STATICALLY_KNOWN_TRUE(x.sym_eq(y));
  });
}

// The sizes of the tensor that has a half and the other one.
c10::SymDimVector packed_sizes(const at::Tensor& half, int64_t dim) {
  c10::SymDimVector sizes(half.sym_sizes().begin(), half.sym_sizes().end());
  sizes[dim] *= 2;
  return sizes;
}

// Its strides: those of the half, if there is nothing else between two runs of it.
c10::SymDimVector packed_strides(const at::Tensor& half, c10::SymIntArrayRef sizes) {
  const auto on_meta = half.options().device(at::kMeta);
  at::Tensor both = at::empty_strided_symint(sizes, half.sym_strides(), on_meta);
  if (!both.unsafeGetTensorImpl()->is_non_overlapping_and_dense_or_false()) both = at::empty_symint(sizes, on_meta);
  return c10::SymDimVector(both.sym_strides().begin(), both.sym_strides().end());
}

}  // namespace

std::optional<int64_t> packed_dim(const at::Tensor& first, const at::Tensor& second) {
  if (!first.requires_grad() || !second.requires_grad() || !may_speculate_in_graph({first, second}) ||
      !first.is_view() || !second.is_view() || !first._base().is_same(second._base()) ||
      first.scalar_type() != second.scalar_type() || !known_equal(first.sym_sizes(), second.sym_sizes()) ||
      !known_equal(first.sym_strides(), second.sym_strides()))
    return std::nullopt;
  const c10::SymInt gap = second.sym_storage_offset() - first.sym_storage_offset();
  for (int64_t dim = 0; dim < first.dim(); ++dim)
    if (TORCH_STATICALLY_KNOWN_TRUE(gap.sym_eq(first.sym_size(dim) * first.sym_stride(dim)))) return dim;
  return std::nullopt;
}

void pack(std::vector<at::Tensor>& gradients, size_t k, const at::Tensor& first, int64_t dim) {
  TORCH_CHECK_INDEX(0 <= dim && dim < first.dim(), "packed is ", dim, ", but there are ", first.dim(), " dimensions");
  const at::Tensor one = std::move(gradients[k]), other = std::move(gradients[k + 1]);
  gradients[k + 1].reset();
  const auto sizes = packed_sizes(first, dim), strides = packed_strides(first, sizes);
  if (one.defined() && !first.is_meta() && one.is_alias_of(other) &&
      one.sym_strides() == c10::SymIntArrayRef(strides) &&
      other.storage_offset() - one.storage_offset() == one.size(dim) * one.stride(dim)) {
    gradients[k] = one.as_strided_symint(sizes, strides, one.sym_storage_offset());
    return;
  }
  gradients[k] = at::empty_strided_symint(sizes, strides, first.options());
  if (first.is_meta()) return;
  const at::Tensor halves[] = {one, other};
  for (int64_t half = 0; half < 2; ++half)
    gradients[k].narrow_symint(dim, half * first.sym_size(dim), first.sym_size(dim)).copy_(halves[half]);
}

void unpack(std::vector<at::Tensor>& gradients, size_t k, const at::Tensor& first, int64_t dim) {
  const c10::SymInt size = first.sym_size(dim);
  const auto halves = gradients[k].split_with_sizes_symint({size, size}, dim);
  gradients[k] = halves[0];
  gradients[k + 1] = halves[1];
}

}  // namespace aevb
