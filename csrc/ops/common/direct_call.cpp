#include "ops/common/direct_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

namespace aevb {

bool convert(PyObject* object, at::Tensor& result) {
  if (!THPVariable_CheckExact(object)) return false;  // a subclass may have its own __torch_function__
  result = THPVariable_Unpack(object);
  return true;
}

bool convert(PyObject* object, double& result) {
  if (!PyFloat_CheckExact(object)) return false;
  result = PyFloat_AS_DOUBLE(object);
  return true;
}

bool convert(PyObject* object, bool& result) {
  result = object == Py_True;
  return result || object == Py_False;
}

bool convert(PyObject* object, int64_t& result) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  result = PyLong_AsLongLongAndOverflow(object, &overflow);
  return !overflow;
}

bool convert(PyObject* object, c10::SymInt& result) {
  int64_t number = 0;
  if (!convert(object, number)) return false;
  result = number;
  return true;
}

bool convert(PyObject* object, c10::string_view& result) {
  if (!PyUnicode_CheckExact(object) || !PyUnicode_IS_COMPACT_ASCII(object)) return false;
  result = {static_cast<const char*>(PyUnicode_DATA(object)), size_t(PyUnicode_GET_LENGTH(object))};
  return true;
}

bool convert(PyObject* object, c10::Device& result) {
  if (!THPDevice_Check(object)) return false;
  result = reinterpret_cast<THPDevice*>(object)->device;
  return true;
}

bool convert(PyObject*, at::Generator&) { return false; }  // None is what compiled graphs have

bool convert_list(PyObject* object, bool* result, size_t size) {
  if (!PyList_CheckExact(object) || size_t(PyList_GET_SIZE(object)) != size) return false;
  for (size_t i = 0; i < size; ++i)
    if (!convert(PyList_GET_ITEM(object, i), result[i])) return false;
  return true;
}

bool is_none(PyObject* object) { return object == Py_None; }

namespace {

// Whether no mode or transform is there that includes a key of its own.
bool nothing_intercepts() {
  return (c10::impl::tls_local_dispatch_key_set().included_ - c10::default_included_set).empty();
}

}  // namespace

Outside::Outside(bool has_autograd) : thread_(PyEval_SaveThread()) {
  if (!has_autograd && !c10::GradMode::is_enabled() && nothing_intercepts())
    below_.emplace(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
}

Outside::~Outside() { PyEval_RestoreThread(static_cast<PyThreadState*>(thread_)); }

std::vector<DirectOperator>& direct_operators() {
  static std::vector<DirectOperator> all;
  return all;
}

namespace {

const DirectOperator& find(const char* name) {
  const auto& all = direct_operators();
  const auto found = std::find_if(all.begin(), all.end(), [=](const auto& one) { return one.name == name; });
  TORCH_CHECK(found != all.end(), name, " has no direct call");
  return *found;
}

// What a direct call keeps: the operator, its keywords, and torch's own callable.
struct Bound {
  const DirectOperator* op;
  std::vector<PyObject*> names;
  PyObject* usual;
};

PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  HANDLE_TH_ERRORS
  const auto* bound = static_cast<const Bound*>(PyCapsule_GetPointer(self, nullptr));
  const size_t named = keywords ? size_t(PyTuple_GET_SIZE(keywords)) : 0;
  bool plain = size_t(count) + named == bound->op->arguments && !at::impl::torch_function_mode_enabled();
  for (size_t i = 0; plain && i < named; ++i)
    plain = PyTuple_GET_ITEM(keywords, i) == bound->names[size_t(count) + i];  // in order; they are interned
  if (plain)
    if (auto results = bound->op->call(bound->op->name, arguments)) {
      if (results->size() == 1) return THPVariable_Wrap(std::move(results->front()));
      PyObject* all = PyTuple_New(Py_ssize_t(results->size()));
      for (size_t i = 0; all && i < results->size(); ++i)
        PyTuple_SET_ITEM(all, i, THPVariable_Wrap(std::move((*results)[i])));
      return all;
    }
  return PyObject_Vectorcall(bound->usual, arguments, size_t(count), keywords);
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyObject* direct_call(const std::string& name, PyObject* usual) {
  static PyMethodDef method = {"direct_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)),
                               METH_FASTCALL | METH_KEYWORDS, nullptr};
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  auto* bound = new Bound{&find(name.c_str()), {}, Py_NewRef(usual)};  // as long as the process lives
  for (const auto& argument : handle.schema().arguments())
    bound->names.push_back(PyUnicode_InternFromString(argument.name().c_str()));
  return PyCFunction_New(&method, PyCapsule_New(bound, nullptr, nullptr));
}

}  // namespace aevb
