// The buffers that a call to the kernels (csrc/call.h) names, and a launch that is watched for them.
#pragma once
#include <utility>

#include "call.h"
#include "cuda/kernels.h"
#include "machine.h"

namespace emulation {

inline Buffer operand(std::string name, const aevb::Input& in) {
  uint64_t last = 0;
  for (int d = 0; d < in.dims; ++d) last += (in.size[d] - 1) * in.stride[d];
  return {std::move(name), in.data, (last + 1) * size_of(in.type), 0, 1, false};
}
inline Buffer operand(std::string name, const void* data, uint64_t bytes) {
  return {std::move(name), data, bytes, 0, 1, false};
}
inline Buffer result(std::string name, const aevb::Output& out, uint64_t rows, uint64_t event, uint64_t blocks) {
  const uint64_t size = size_of(out.type);
  if (out.per_block) return {std::move(name), out.data, rows * blocks * size, 0, 1, true};
  const uint64_t gap = out.layout && out.layout->dims == 2 ? out.layout->stride[0] - event : 0;
  return {std::move(name), out.data, event * size, gap * size, rows, true};
}
template <class Call>
Buffer keys(const Call& call) {
  return operand("key", call.key, call.rows / call.key_rows * 2 * sizeof(int64_t));
}

inline std::vector<Buffer> buffers_of(const aevb::RowCall& call) {
  std::vector<Buffer> all = {operand("the cotangent", call.cotangent),
                             result("the value", call.value, call.rows, call.event, call.blocks),
                             operand("the guesses", call.guesses.used, call.rows * call.blocks * size_of(call.wide))};
  all.back().is_result = call.value.data;
  for (int k = 0; k < 4; ++k) {
    all.push_back(operand("operand " + std::to_string(k), call.in[k]));
    all.push_back(result("gradient " + std::to_string(k), call.gradient[k], call.rows, call.event, call.blocks));
    all.back().may_be_left = call.guesses.used;
  }
  return all;
}
inline std::vector<Buffer> buffers_of(const aevb::SampleCall& call) {
  return {operand("mu", call.mu),
          operand("the spread", call.spread),
          keys(call),
          operand("z's cotangent", call.z_cotangent),
          operand("the KL's cotangent", call.kl_cotangent),
          result("z", call.z, call.samples * call.rows, call.event, call.blocks),
          result("the KL", call.kl, call.rows, call.event, call.blocks),
          result("mu's gradient", call.gradient[0], call.rows, call.event, call.blocks),
          result("the spread's gradient", call.gradient[1], call.rows, call.event, call.blocks)};
}
inline std::vector<Buffer> buffers_of(const aevb::BinarizeCall& call) {
  return {operand("x", call.x), keys(call),
          result("the bits", {call.bits, aevb::Type::u8}, call.rows, call.event, call.blocks)};
}
inline std::vector<Buffer> buffers_of(const aevb::UnpackCall& call) {
  return {operand("the packed bits", call.packed, uint64_t(call.rows) * call.width),
          result("the bits", {call.bits, aevb::Type::u8}, call.rows, call.count, 1)};
}
inline std::vector<Buffer> buffers_of(const aevb::MixtureCall& call) {
  const uint64_t size = size_of(call.wide), of_rows = call.rows * call.problems * size;
  const uint64_t of_components = call.problems * call.components * size;
  const auto buffer = [](const char* name, const void* data, uint64_t bytes, bool is_result) -> Buffer {
    return {name, data, bytes, 0, 1, is_result};
  };
  return {buffer("z", call.z, of_rows * call.event, false),
          buffer("mu", call.mu, of_components * call.event, false),
          buffer("1 / sigma", call.inverse_std, of_components * call.event, false),
          buffer("the log weights", call.log_weight, of_components, false),
          buffer("the log density", call.log_density, of_rows, !call.cotangent),
          buffer("the cotangent", call.cotangent, of_rows, false),
          buffer("z's gradient", call.dz, of_rows * call.event, true),
          buffer("mu's sums", call.of_mu, call.parts * of_components * call.event, true),
          buffer("the spread's sums", call.of_logvar, call.parts * of_components * call.event, true),
          buffer("the log weights' sums", call.of_log_weight, call.parts * of_components, true)};
}

// Runs one of the kernels in cuda/kernels.h, which touches the call's buffers alone, and writes all of its results.
template <class Call>
cudaError_t watched(cudaError_t (*kernel)(const Call&, cudaStream_t), const Call& call) {
  const bool empty = [&] {
    if constexpr (requires { call.event; }) return call.rows == 0 || call.event == 0;
    return call.rows == 0;
  }();
  const Watch watch(empty ? std::vector<Buffer>() : buffers_of(call));
  const cudaError_t error = kernel(call, nullptr);
  if (error == cudaSuccess) watch.finish();
  return error;
}

}  // namespace emulation
