// The library of operators (each registers itself in ops/), and the Python module, which has build_info() and the
// direct calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/instruction_sets.h"
#include "ops/common/direct_call.h"
#include "ops/common/launch.h"
#ifdef AEVB_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

TORCH_LIBRARY(aevb_ext, m) { m.set_python_module("aevb_ext"); }

namespace {

// Whether CPU tensors run the kernels for CUDA.
#ifdef AEVB_EMULATED
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = AEVB_VERSION;
  info["commit"] = AEVB_COMMIT;
  info["torch"] = TORCH_VERSION;
#ifdef AEVB_WITH_CUDA
  info["cuda"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
#else
  info["cuda"] = pybind11::none();
#endif
  info["arch_list"] = AEVB_ARCH_LIST;
  info["emulated"] = kEmulated;
  info["compiler"] = __VERSION__;
  info["cpu_built"] = aevb::cpu::instruction_sets();
  info["cpu_in_use"] = aevb::cpu::kernels().name;
  return info;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("build_info", &build_info);
  m.def("direct_operators", [] {
    std::vector<std::string> names;
    for (const auto& one : aevb::direct_operators()) names.push_back(one.name);
    return names;
  });
  m.def("direct_call", [](const std::string& name, const pybind11::object& usual) {
    return pybind11::reinterpret_steal<pybind11::object>(aevb::direct_call(name, usual.ptr()));
  });
  // Of what is asked when it is loaded: build_info() picks the instruction set.
  m.attr("emulated") = kEmulated;
#ifdef AEVB_WITH_CUDA
  m.attr("has_cuda") = true;
#else
  m.attr("has_cuda") = false;
#endif
}
