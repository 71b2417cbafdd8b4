#include "ops/common/compiled_autograd.h"

#include <torch/csrc/dynamo/compiled_autograd.h>

namespace aevb {

void collect_saved(CompiledNodeArgs& args, const std::vector<torch::autograd::SavedVariable>& saved) {
  args.collect(saved, /*is_output=*/false);
}
void collect_setting(CompiledNodeArgs& args, bool setting) { args.collect(setting); }
void collect_setting(CompiledNodeArgs& args, int64_t setting) { args.collect(setting); }
void collect_setting(CompiledNodeArgs& args, double setting) { args.collect(setting); }
void collect_setting(CompiledNodeArgs& args, const std::string& setting) { args.collect(setting); }
void collect_setting(CompiledNodeArgs& args, const c10::SymInt& setting) {
  args.collect(setting.guard_int(__FILE__, __LINE__));
}
void collect_setting(CompiledNodeArgs& args, const std::optional<c10::SymInt>& setting) {
  if (args.cond(setting.has_value())) collect_setting(args, *setting);
}
void collect_setting(CompiledNodeArgs& args, const std::optional<c10::SymDimVector>& setting) {
  if (args.cond(setting.has_value()))
    for (const auto& size : *setting) collect_setting(args, size);
}

variable_list call_in_graph(const torch::autograd::Node& node, SwapSavedVariables& swap,
                            const variable_list& cotangents, std::vector<torch::autograd::SavedVariable>& saved,
                            const GraphFunction& function) {
  namespace compiled = torch::dynamo::autograd;
  swap.before(saved);
  std::vector<c10::IValue> inputs;
  for (auto& variable : saved) inputs.emplace_back(variable.unpack());
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
  variable_list gradients =
      python->call_function(swap.get_py_compiler(), "apply_functional", name, cotangents, inputs, results);
  swap.after(saved);
  return gradients;
}

}  // namespace aevb
