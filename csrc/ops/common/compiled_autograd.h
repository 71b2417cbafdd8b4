// Compiled autograd (torch._dynamo.config.compiled_autograd) compiles a whole backward. It asks a node for everything
// that its graph depends on, and for a function of tensors alone in place of `apply`. PyTorch's header of it takes
// seconds to compile, and is included by compiled_autograd.cpp alone.
#pragma once
#include <c10/core/SymInt.h>
#include <c10/util/DimVector.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace aevb {

using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::SwapSavedVariables;

// Collect what a graph depends on.
void collect_saved(CompiledNodeArgs& args, const std::vector<torch::autograd::SavedVariable>& saved);
void collect_setting(CompiledNodeArgs& args, bool setting);
void collect_setting(CompiledNodeArgs& args, int64_t setting);
void collect_setting(CompiledNodeArgs& args, double setting);
void collect_setting(CompiledNodeArgs& args, const std::string& setting);
void collect_setting(CompiledNodeArgs& args, const c10::SymInt& setting);
void collect_setting(CompiledNodeArgs& args, const std::optional<c10::SymInt>& setting);
void collect_setting(CompiledNodeArgs& args, const std::optional<c10::SymDimVector>& setting);

// Puts a call of function(cotangents, saved) into the graph in place of the node's `apply`.
using GraphFunction = std::function<variable_list(const variable_list& cotangents, const variable_list& saved)>;
variable_list call_in_graph(const torch::autograd::Node& node, SwapSavedVariables& swap,
                            const variable_list& cotangents, std::vector<torch::autograd::SavedVariable>& saved,
                            const GraphFunction& function);

}  // namespace aevb
