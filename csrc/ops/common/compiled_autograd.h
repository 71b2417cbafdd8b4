// Compiled autograd (torch._dynamo.config.compiled_autograd) compiles a whole backward. It asks a node for everything
// that its graph depends on, and for a function of tensors alone in place of `apply`.
#pragma once
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <optional>
#include <string>
#include <vector>

namespace aevb {

using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::SwapSavedVariables;

// Collects one of the settings that a graph depends on.
template <class T>
void collect_setting(CompiledNodeArgs& args, const T& setting) {
  args.collect(setting);
}
inline void collect_setting(CompiledNodeArgs& args, const c10::SymInt& setting) {
  args.collect(setting.guard_int(__FILE__, __LINE__));
}
inline void collect_setting(CompiledNodeArgs& args, const std::optional<c10::SymInt>& setting) {
  if (args.cond(setting.has_value())) collect_setting(args, *setting);
}

// Puts a call of function(cotangents, saved) into the graph in place of the node's `apply`.
template <class Function>
variable_list call_in_graph(const torch::autograd::Node& node, SwapSavedVariables& swap,
                            const variable_list& cotangents, const variable_list& saved, Function function) {
  namespace compiled = torch::dynamo::autograd;
  const auto& python = compiled::getPyCompilerInterface();
  const auto unpacked = [function](const variable_list& given, const std::vector<c10::IValue>& packed) {
    variable_list tensors;
    for (const auto& value : packed) tensors.push_back(value.toTensor());
    return function(given, tensors);
  };
  const std::vector<at::TypePtr> schema(saved.size(), at::TensorType::get());
  const std::string name = python->bind_function(swap.get_py_compiler(), node.name(), unpacked, schema,
                                                 /*is_custom_function=*/true, /*is_traceable=*/true);
  const c10::IValue results = compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
      compiled::get_input_metadata(node.next_edges()));
  return python->call_function(swap.get_py_compiler(), "apply_functional", name, cotangents,
                               std::vector<c10::IValue>(saved.begin(), saved.end()), results);
}

}  // namespace aevb
