// A tensor in a wider dtype, like `to`, but with a clamped gradient: beyond the largest number of the tensor's own
// dtype it becomes that number (`narrowed`), where `to` would make it infinite.
#include "ops/common/autocast.h"
#include "ops/common/autograd.h"
#include "ops/common/check.h"
#include "ops/common/rows.h"

namespace aevb {
namespace {

struct Widened {
  static constexpr const char* name = "Widened";
  at::ScalarType own = at::kFloat;

  auto settings() const { return std::make_tuple(int64_t(own)); }
  variable_list fused(const variable_list& cotangents, const variable_list&, at::ArrayRef<bool>) const {
    return {narrowed(cotangents[0], own)};
  }
  variable_list differentiable(const variable_list& cotangents, const variable_list& saved,
                               at::ArrayRef<bool> wanted) const {
    return fused(cotangents, saved, wanted);
  }
};

at::Tensor forward(const at::Tensor& t, at::ScalarType dtype) {
  check_floating("t", t);
  TORCH_CHECK_TYPE(is_floating(dtype) && c10::promoteTypes(t.scalar_type(), dtype) == dtype, "t is ", t.scalar_type(),
                   ", and ", dtype, " is no wider dtype");
  return t.to(dtype, /*non_blocking=*/false, /*copy=*/true);
}

at::Tensor autograd(const at::Tensor& t, at::ScalarType dtype) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::widened");
  return record(Widened{t.scalar_type()}, {t}, {}, [&] { return op.call(t, dtype); });
}

}  // namespace

at::Tensor widened(const at::Tensor& t, at::ScalarType dtype) {
  static auto op = find_operator<decltype(forward)>("aevb_ext::widened");
  return t.scalar_type() == dtype ? t : op.call(t, dtype);
}

// For every device: on those without our kernels, the reference formulas use it too.
TORCH_LIBRARY_FRAGMENT(aevb_ext, m) { m.def("widened(Tensor t, ScalarType dtype) -> Tensor"); }
TORCH_LIBRARY_IMPL(aevb_ext, CompositeExplicitAutograd, m) { m.impl("widened", TORCH_FN(forward)); }
TORCH_LIBRARY_IMPL(aevb_ext, Autograd, m) { m.impl("widened", TORCH_FN(autograd)); }

}  // namespace aevb
