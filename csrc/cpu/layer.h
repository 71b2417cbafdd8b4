// What a linear layer computes beside its products.
#pragma once
#include "call.h"
#include "cpu/stage.h"

namespace aevb::AEVB_ISA {

// 1 - 2 / (e^2|x| + 1) with x's sign, and near 0 the polynomial of the Cephes library (S. Moshier): 2 ulp.
AEVB_INLINE F32 hyperbolic_tangent(F32 x) {
  const F32 size = abs(x);
  const F32 far = F32(1.0) - F32(2.0) / (exp_of(2, size) + F32(1.0));
  const F32 z = x * x;
  constexpr double c[] = {-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3};
  const F32 near = fma(polynomial(z, c) * z, x, x);
  return select(size < F32(0.625), near, select(x < F32(0.0), -far, far));
}

// The rows [begin, end).
inline void activate(const ActivationCall& call, int64_t begin, int64_t end) {
  constexpr int lanes = F32::lanes;
  for (int64_t row = begin; row < end; ++row) {
    float* const y = call.y + row * call.features;
    int64_t i = 0;
    for (; i + lanes <= call.features; i += lanes) {
      const F32 bias = call.bias ? F32::load(call.bias + i) : F32(0.0);
      hyperbolic_tangent(F32::load(y + i) + bias).store(y + i);
    }
    if (const int rest = int(call.features - i)) {
      const F32 bias = call.bias ? F32::load(call.bias + i, rest) : F32(0.0);
      hyperbolic_tangent(F32::load(y + i, rest) + bias).store(y + i, rest);
    }
  }
}

// Rows are summed in groups of this many, and then the groups, so that the sum of many rows is as exact as that of few.
constexpr int64_t kSummedRows = 64;

template <bool tanh, int registers>
AEVB_INLINE void activation_gradients(const ActivationBackwardCall& call, int64_t first, int rest) {
  constexpr int lanes = F32::lanes;
  F32 total[registers];
  for (F32& each : total) each = F32(0.0);
  for (int64_t begin = 0; begin < call.rows; begin += kSummedRows) {
    const int64_t end = call.rows - begin < kSummedRows ? call.rows : begin + kSummedRows;
    F32 sum[registers];
    AEVB_UNROLL
    for (F32& each : sum) each = F32(0.0);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * call.features + first;
      AEVB_UNROLL
      for (int k = 0; k < registers; ++k) {
        const int64_t i = at + k * lanes;
        const auto load = [=](const float* from)
                              AEVB_INLINE_BODY { return rest ? F32::load(from + i, rest) : F32::load(from + i); };
        F32 g = load(call.cotangent);
        if constexpr (tanh) {
          const F32 y = load(call.y);
          g = g * (F32(1.0) - y * y);
        }
        if (call.gradient) rest ? g.store(call.gradient + i, rest) : g.store(call.gradient + i);
        sum[k] = sum[k] + g;
      }
    }
    AEVB_UNROLL
    for (int k = 0; k < registers; ++k) total[k] = total[k] + sum[k];
  }
  if (!call.bias_gradient) return;
  for (int k = 0; k < registers; ++k) {
    float* const to = call.bias_gradient + first + k * lanes;
    rest ? total[k].store(to, rest) : total[k].store(to);
  }
}

// The features [begin, end), of all rows.
template <bool tanh>
void activation_gradients_of(const ActivationBackwardCall& call, int64_t begin, int64_t end) {
  constexpr int lanes = F32::lanes, registers = 4;
  int64_t i = begin;
  for (; i + registers * lanes <= end; i += registers * lanes) activation_gradients<tanh, registers>(call, i, 0);
  for (; i + lanes <= end; i += lanes) activation_gradients<tanh, 1>(call, i, 0);
  if (i < end) activation_gradients<tanh, 1>(call, i, int(end - i));
}

inline void activate_backward(const ActivationBackwardCall& call, int64_t begin, int64_t end) {
  call.y ? activation_gradients_of<true>(call, begin, end) : activation_gradients_of<false>(call, begin, end);
}

// The bytes [begin, end).
inline void scale_bytes(const ScaleCall& call, int64_t begin, int64_t end) {
  constexpr int lanes = F32::lanes;
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) (widen(call.bytes + i) * F32(double(call.scale))).store(call.numbers + i);
  for (; i < end; ++i) call.numbers[i] = float(call.bytes[i]) * call.scale;
}

}  // namespace aevb::AEVB_ISA
