// How an operator becomes differentiable: by a hand-written graph node, like PyTorch's own operators.
//
// Measured for forward + backward of [100, 784] with empty kernels (torch 2.13, one thread, medians of interleaved
// runs): this node 11.8 us, torch::autograd::Function 12.9, torch.library.register_autograd 22.2, Python's
// autograd.Function 26.1. torch.compile supports all four. torch.func does not: under grad, vmap(grad) and grad(grad)
// the C++ Function and register_autograd raise, and the Python Function fails under vmap(grad). The node works in all
// three, since functorch treats it like any native operator. Double backward costs one `if`: when a graph of the
// backward is wanted (create_graph=True, and always under torch.func), the gradients are computed by differentiable
// ATen operations instead of the fused kernel.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <mutex>
#include <type_traits>
#include <vector>

#include "ops/common/compiled_autograd.h"
#include "ops/common/speculative_gradient.h"

namespace aevb {

using torch::autograd::variable_list;

// Op holds the settings of one call and has
//   static constexpr const char* name;
//   auto settings() const;                                                    a tuple of them
//   variable_list fused(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
//   variable_list differentiable(...the same...) const;
// An operator over rows has these as well, and its gradients may be speculative (speculative_gradient.h):
//   static constexpr const char* operator_name;
//   void check(const variable_list& saved) const;
//   RowProblem problem(const variable_list& saved) const;
// and, for compiled graphs, in which a tensor stands for the speculative gradient:
//   std::tuple<at::Tensor, at::Tensor> speculative(const variable_list& saved, at::ArrayRef<bool> wanted) const;
//                                                                     calls the operator that gives the values and it
//   variable_list fused(cotangents, saved, wanted, const at::Tensor& speculative) const;
template <class Op>
concept OverRows = requires(const Op op, const variable_list& saved) { op.problem(saved); };

// An operator whose gradients may be written side by side (halves.cpp) has a function that does so:
//   static constexpr const char* backward_name;
//   variable_list paired(const variable_list& cotangents, const variable_list& saved, at::ArrayRef<bool> wanted) const;
template <class Op>
concept MayPair = requires(const Op op, const variable_list& list) { op.paired(list, list, at::ArrayRef<bool>()); };

// An operator that may also have a gradient for an input's producer, the tensor that the input was computed from, has:
//   Edge producer_edge(const Node& node, const variable_list& inputs) const;     found from the node's own; or none
//   bool gives_producer_gradient(const Node& node) const;                        whether a backward has one to give
//   at::Tensor producer_gradient(const variable_list& cotangents, const variable_list& saved,
//                                variable_list& gradients) const;                in any shape; it may change the others
template <class Op>
concept HasProducer = requires(const Op op, const torch::autograd::Node& node) { op.gives_producer_gradient(node); };

template <class Op>
struct Backward final : torch::autograd::Node {
  Op op;
  std::vector<torch::autograd::SavedVariable> saved;
  SpeculativeGradient speculative;
  torch::autograd::SavedVariable speculative_in_graph;
  bool has_producer_edge = false;  // its last

  variable_list apply(variable_list&& cotangents) override {
    std::lock_guard<std::mutex> lock(mutex_);
    // The cotangent may be undefined.
    const bool any = std::any_of(cotangents.begin(), cotangents.end(), [](const auto& g) { return g.defined(); });
    if (!any) return variable_list(num_outputs());
    variable_list inputs;
    for (auto& variable : saved) inputs.push_back(variable.unpack());
    const auto wanted = wanted_outputs();
    variable_list gradients = gradients_of_inputs(cotangents, inputs, wanted);
    gradients.resize(num_outputs());
    add_producer_gradient(op, producer_sizes(wanted), cotangents, inputs, gradients);
    return gradients;
  }
  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& variable : saved) variable.reset_data();
    speculative.discard();
    speculative_in_graph.reset_data();
  }
  std::string name() const override { return std::string(Op::name) + "Backward"; }

  void compiled_args(CompiledNodeArgs& args) const override {
    collect_saved(args, saved);
    std::apply([&](const auto&... setting) { (collect_setting(args, setting), ...); }, op.settings());
    collect_setting(args, producer_sizes(wanted_outputs()));
  }
  variable_list apply_with_saved(const variable_list& cotangents, SwapSavedVariables& swap) override {
    const auto wanted = wanted_outputs();
    const auto gradients = [op = op, wanted, sizes = producer_sizes(wanted)](const variable_list& given,
                                                                             const variable_list& kept) {
      variable_list all = op.fused(given, kept, wanted);
      all.resize(wanted.size());
      add_producer_gradient(op, sizes, given, kept, all);
      return all;
    };
    return call_in_graph(*this, swap, cotangents, saved, gradients);
  }

 private:
  variable_list gradients_of_inputs(const variable_list& cotangents, const variable_list& inputs,
                                    at::ArrayRef<bool> wanted) {
    if (at::GradMode::is_enabled()) return op.differentiable(cotangents, inputs, wanted);
    if constexpr (OverRows<Op>) {
      if constexpr (GuessedOnDevice<decltype(op.problem(inputs))>)
        if (const auto guessed = speculative.take_on_device(cotangents[0])) {
          static const std::string backward_name = std::string(Op::operator_name) + "_backward";
          RECORD_FUNCTION(backward_name, std::vector<c10::IValue>());
          at::AutoDispatchBelowADInplaceOrView below;
          if (auto gradients = gradients_after_guess(op.problem(inputs), cotangents[0], *guessed, wanted))
            return *std::move(gradients);
        }
      if (auto gradients = speculative.take(cotangents[0], wanted)) return *std::move(gradients);
      if (const auto in_graph = speculative_in_graph.unpack(); in_graph.defined())
        return op.fused(cotangents, inputs, wanted, in_graph);
    }
    if constexpr (MayPair<Op>)
      if (may_bypass_dispatcher(inputs) && may_bypass_dispatcher(cotangents)) {
        RECORD_FUNCTION(Op::backward_name, std::vector<c10::IValue>());
        at::AutoDispatchBelowADInplaceOrView below;
        return op.paired(cotangents, inputs, wanted);
      }
    return op.fused(cotangents, inputs, wanted);
  }
  using Sizes = std::optional<c10::SymDimVector>;
  // The shape of the producer's gradient, which comes after those of the inputs, if there is one.
  Sizes producer_sizes([[maybe_unused]] at::ArrayRef<bool> wanted) const {
    if constexpr (HasProducer<Op>)
      if (has_producer_edge && wanted.back() && op.gives_producer_gradient(*this)) {
        const auto& edge = next_edges().back();
        const auto sizes = edge.function->input_metadata(edge.input_nr).shape_as_dim_vector();
        return c10::SymDimVector(sizes.begin(), sizes.end());
      }
    return std::nullopt;
  }
  static void add_producer_gradient([[maybe_unused]] const Op& op, [[maybe_unused]] const Sizes& sizes,
                                    [[maybe_unused]] const variable_list& cotangents,
                                    [[maybe_unused]] const variable_list& saved,
                                    [[maybe_unused]] variable_list& gradients) {
    if constexpr (HasProducer<Op>)
      if (sizes) gradients.back() = op.producer_gradient(cotangents, saved, gradients).reshape_symint(*sizes);
  }
  c10::SmallVector<bool, 4> wanted_outputs() const {
    c10::SmallVector<bool, 4> wanted;
    for (uint32_t i = 0; i < num_outputs(); ++i) wanted.push_back(task_should_compute_output(i));
    return wanted;
  }
};

// Nodes are intrusively counted from torch 2.13 on, before that they are shared.
template <class Node>
auto make_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>)
    return c10::make_intrusive<Node>();
  else
    return std::shared_ptr<Node>(new Node, [](Node* node) { deleteNode(node); });
}

// Runs `forward` below autograd and records it: gradients flow to `inputs`, and the backward reads `saved`.
template <class Op, class Forward>
auto record(const Op& op, const variable_list& inputs, const variable_list& saved, Forward forward) {
  bool requires_grad = false;
  for (const auto& input : inputs) {
    if (!input.defined()) continue;
    requires_grad = requires_grad || input.requires_grad();
    TORCH_CHECK_NOT_IMPLEMENTED(!input._fw_grad(0).defined(), Op::name,
                                " has no forward-mode derivative; use reverse mode, or aevb_ext.reference");
  }
  decltype(make_node<Backward<Op>>()) node;
  if (requires_grad && at::GradMode::is_enabled()) {
    node = make_node<Backward<Op>>();
    node->op = op;
    node->set_next_edges(torch::autograd::collect_next_edges(at::TensorList(inputs)));
    if constexpr (HasProducer<Op>)
      if (const auto edge = op.producer_edge(*node, inputs); edge.is_valid()) {
        node->add_next_edge(edge);
        node->has_producer_edge = true;
      }
    for (const auto& variable : saved) node->saved.emplace_back(variable, /*is_output=*/false);
  }
  auto results = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    if constexpr (OverRows<Op>)
      if (node) {
        c10::SmallVector<bool, 4> wanted;
        for (const auto& input : inputs) wanted.push_back(input.defined() && input.requires_grad());
        if (may_speculate(inputs, GuessedOnDevice<decltype(op.problem(saved))>)) {
          op.check(saved);
          RECORD_FUNCTION(Op::operator_name, std::vector<c10::IValue>());
          if (auto values = node->speculative.compute(op.problem(saved), wanted, true)) return *std::move(values);
        } else if (may_speculate_in_graph(inputs)) {
          const auto [values, in_graph] = op.speculative(saved, wanted);
          node->speculative_in_graph = {in_graph, /*is_output=*/false};
          return values;
        }
      }
    return forward();
  }();
  if (node) {
    if constexpr (std::is_same_v<decltype(results), at::Tensor>)
      torch::autograd::set_history(results, node);
    else
      std::apply([&](auto&... result) { (torch::autograd::set_history(result, node), ...); }, results);
  }
  return results;
}

// The operator in a compiled graph that gives the values and a tensor that stands for the speculative gradient.
template <class Op>
std::tuple<at::Tensor, at::Tensor> speculative_forward(const Op& op, const variable_list& inputs,
                                                       at::ArrayRef<bool> wanted, bool paired = false) {
  op.check(inputs);
  const auto problem = op.problem(inputs);
  SpeculativeGradient speculative;
  std::optional<at::Tensor> values;
  if (may_speculate(inputs)) values = speculative.compute(problem, wanted, paired);
  if (!values) values = row_values(problem);
  size_t learnt = 0;
  while (learnt + 1 < wanted.size() && !(wanted[learnt] && inputs[learnt].defined())) ++learnt;
  return {*values, as_tensor(std::move(speculative), inputs[wanted[learnt] ? learnt : 0])};
}

// The gradients of its backward's operator: the speculative ones, or computed.
template <class Op>
std::vector<at::Tensor> gradients_in_graph(const Op& op, const at::Tensor& cotangent, const variable_list& inputs,
                                           at::ArrayRef<bool> wanted, const std::optional<at::Tensor>& speculative,
                                           bool paired = false) {
  op.check(inputs);
  const auto problem = op.problem(inputs);
  check_cotangent("cotangent", cotangent, problem.shape_of(), problem.event_dims, problem.reduction);
  if (auto gradients = take(speculative, cotangent, wanted)) return *std::move(gradients);
  return row_gradients(problem, cotangent, wanted, paired && cotangent.is_cpu());
}

// A tensor that may be undefined, as an operator's argument.
inline std::optional<at::Tensor> optional(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

// The operator's own handle in the dispatcher.
template <class Signature>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Signature>();
}

}  // namespace aevb
