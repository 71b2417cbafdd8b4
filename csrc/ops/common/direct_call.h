// Calls of the operators from Python at a fraction of the cost of torch's own.
//
// torch.ops.aevb_ext.name.default puts its arguments on a stack by the operator's schema, looks for overrides, and lets
// the dispatcher move them to another stack and back where a kernel takes no typed arguments. A compiled graph, whose
// Python has filled the caches with other things, pays for that at each of its operators. A direct call converts its
// arguments by the C++ signature and calls the typed operator, so that modes, transforms and autograd are served as
// ever. Where an argument is anything else (a default, a subclass, a number that is traced), it is torch's own call.
#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymInt.h>
#include <c10/util/string_view.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

struct _object;

namespace aevb {

using PythonObject = _object;

// From Python's object, if it is plainly one of these; text is valid as long as the object is.
bool convert(PythonObject* object, at::Tensor& result);
bool convert(PythonObject* object, double& result);
bool convert(PythonObject* object, bool& result);
bool convert(PythonObject* object, int64_t& result);
bool convert(PythonObject* object, c10::SymInt& result);
bool convert(PythonObject* object, c10::string_view& result);
bool convert(PythonObject* object, c10::Device& result);
bool convert(PythonObject* object, at::Generator& result);
bool convert_list(PythonObject* object, bool* result, size_t size);
bool is_none(PythonObject* object);

template <size_t size>
bool convert(PythonObject* object, std::array<bool, size>& result) {
  return convert_list(object, result.data(), size);
}
template <class T>
bool convert(PythonObject* object, std::optional<T>& result) {
  return is_none(object) || convert(object, result.emplace());
}

// While it lives, other threads may run Python; and if nothing has to be recorded or intercepted, autograd is skipped.
class Outside {
 public:
  explicit Outside(bool has_autograd);
  ~Outside();

 private:
  void* thread_;
  std::optional<c10::impl::ExcludeDispatchKeyGuard> below_;
};

// The results of the operator for these arguments; none if they are not plain.
using DirectCall = std::optional<std::vector<at::Tensor>> (*)(const std::string& name, PythonObject* const* arguments);

struct DirectOperator {
  std::string name;
  size_t arguments;
  DirectCall call;
};
std::vector<DirectOperator>& direct_operators();

// The callable for Python, given torch's own.
PythonObject* direct_call(const std::string& name, PythonObject* usual);

template <auto function>
struct Direct;
template <class Result, class... Args, Result (*function)(Args...)>
struct Direct<function> {
  static bool add(const char* name) {
    direct_operators().push_back({std::string("aevb_ext::") + name, sizeof...(Args), &Direct::call});
    return true;
  }

 private:
  static std::optional<std::vector<at::Tensor>> call(const std::string& name, PythonObject* const* arguments) {
    static const Handle handle(name);
    return convert_and_call(handle, arguments, std::index_sequence_for<Args...>());
  }
  struct Handle {
    explicit Handle(const std::string& name)
        : untyped(c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "")),
          op(untyped.typed<Result(Args...)>()),
          has_autograd(untyped.hasKernelForDispatchKey(c10::DispatchKey::Autograd)) {}
    c10::OperatorHandle untyped;
    c10::TypedOperatorHandle<Result(Args...)> op;
    bool has_autograd;
  };
  template <size_t... i>
  static std::optional<std::vector<at::Tensor>> convert_and_call(const Handle& handle, PythonObject* const* arguments,
                                                                 std::index_sequence<i...>) {
    std::tuple<std::decay_t<Args>...> given = {initial<std::decay_t<Args>>()...};
    if (!(convert(arguments[i], std::get<i>(given)) && ...)) return std::nullopt;
    const Outside outside(handle.has_autograd);
    return list_of(handle.op.call(std::get<i>(given)...));
  }
  template <class T>
  static T initial() {
    if constexpr (std::is_same_v<T, c10::Device>)
      return c10::Device(c10::kCPU);
    else
      return T();
  }
  static std::vector<at::Tensor> list_of(at::Tensor&& one) { return {std::move(one)}; }
  template <class... Tensors>
  static std::vector<at::Tensor> list_of(std::tuple<Tensors...>&& all) {
    return std::apply([](auto&... each) { return std::vector<at::Tensor>{std::move(each)...}; }, all);
  }
};

}  // namespace aevb
