// Means and spreads that are the two halves of one tensor, the output of an encoder with a single last layer.
//
// Their gradients have to become the two halves of one tensor again. PyTorch's own chunk copies both into new memory,
// which costs more than computing them. Here the kernels write them side by side (common/layout.h), and the backward of
// `halves` recognises that.
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "ops/common/autograd.h"
#include "ops/common/layout.h"

namespace aevb {
namespace {

using at::Tensor;

struct HalvesBackward final : torch::autograd::Node {
  int64_t dim = 0;

  variable_list apply(variable_list&& halves) override {
    const auto& [first, second] = std::tie(halves[0], halves[1]);
    if (!first.defined() && !second.defined()) return {Tensor()};
    if (first.defined() && second.defined() && !at::GradMode::is_enabled() && may_bypass_dispatcher(halves) &&
        run_of_halves(first, second) &&
        second.storage_offset() - first.storage_offset() == first.size(dim) * first.stride(dim))
      return {together(first)};
    return copied_together(halves, dim);
  }
  std::string name() const override { return "HalvesBackward"; }

  void compiled_args(CompiledNodeArgs& args) const override { collect_setting(args, dim); }
  variable_list apply_with_saved(const variable_list& halves, SwapSavedVariables& swap) override {
    std::vector<torch::autograd::SavedVariable> nothing;
    return call_in_graph(*this, swap, halves, nothing, [dim = dim](const variable_list& given, const variable_list&) {
      return copied_together(given, dim);
    });
  }

 private:
  // One of the two may have no gradient.
  static variable_list copied_together(const variable_list& halves, int64_t dim) {
    const auto given = [&](int i) { return halves[i].defined() ? halves[i] : at::zeros_like(halves[1 - i]); };
    return {at::cat({given(0), given(1)}, dim)};
  }

  // The tensor that has `first` and, after it in this dimension, the other half.
  Tensor together(const Tensor& first) const {
    auto sizes = first.sizes().vec();
    sizes[dim] *= 2;
    return first.as_strided(sizes, first.strides(), first.storage_offset());
  }
};

std::tuple<Tensor, Tensor> halves(const Tensor& params, int64_t dim) {
  TORCH_CHECK_INDEX(params.dim() > 0 && -params.dim() <= dim && dim < params.dim(), "dim is ", dim, ", but params has ",
                    params.dim(), " dimensions");
  if (dim < 0) dim += params.dim();
  TORCH_CHECK_VALUE(params.sym_size(dim) % 2 == 0, "params has size ", params.sym_size(dim), " in dimension ", dim,
                    ", which has no halves");
  // For tracing and transforms these are PyTorch's own views.
  if (!params.requires_grad() || !at::GradMode::is_enabled() || !may_bypass_dispatcher({params})) {
    const auto both = params.chunk(2, dim);
    return {both[0], both[1]};
  }
  const auto both = [&] {
    at::AutoDispatchBelowAutograd below;  // but not below ADInplaceOrView, which makes them views
    return params.chunk(2, dim);
  }();
  auto node = make_node<HalvesBackward>();
  node->dim = dim;
  node->set_next_edges(torch::autograd::collect_next_edges(params));
  for (const auto& half : both) torch::autograd::set_history(half, node);
  return {both[0], both[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("halves(Tensor(a) params, int dim) -> (Tensor(a), Tensor(a))", TORCH_FN(halves));
}
TORCH_LIBRARY_IMPL(aevb_ext, FuncTorchBatchedDecomposition, m) { m.impl("halves", TORCH_FN(halves)); }

}  // namespace aevb
