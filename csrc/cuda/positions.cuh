// Positions that each have a vector of parameters (PositionCall). The fewest bytes to move: the parameters and x once,
// and one number or one gradient for each of them. The backward reads the parameters a second time, from a cache.
#pragma once
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/load.cuh"
#include "formulas/exp_sum.h"

namespace aevb::device {

cudaError_t categorical(const PositionCall& call, cudaStream_t stream);
cudaError_t discretized_logistic_mixture(const PositionCall& call, cudaStream_t stream);

// Vectors in memory: the offset of each position's first number, and the distance of its numbers.
struct Places {
  Axes first;
  int64_t step;

  Places() = default;
  Places(const Vectors& vectors, int64_t positions)
      : first(Operand(vectors.first, positions).event), step(vectors.step) {}
  __device__ __forceinline__ int64_t operator()(int64_t position) const { return offset(first, position); }
};

struct PositionTask {
  int64_t positions, size;
  const void *x, *parameters;
  Type x_type;
  Places of_x, of_parameters, of_gradient;
  const void* cotangent;
  Axes of_cotangent;
  double cotangent_scale;
  void *value, *gradient;

  explicit PositionTask(const PositionCall& call)
      : positions(call.rows * call.event),
        size(call.size),
        x(call.x.first.data),
        parameters(call.parameters.first.data),
        x_type(call.x.first.type),
        of_x(call.x, positions),
        of_parameters(call.parameters, positions),
        cotangent(call.cotangent.data),
        cotangent_scale(call.cotangent_scale),
        value(call.value.data),
        gradient(call.gradient) {
    if (gradient) of_gradient = Places(call.gradient_layout, positions);
    if (cotangent) of_cotangent = Operand(call.cotangent, positions).event;
  }
  template <class Factor>
  __device__ __forceinline__ Factor cotangent_of(int64_t position) const {
    const auto scale = static_cast<Factor>(cotangent_scale);
    return cotangent ? __ldg(static_cast<const Factor*>(cotangent) + offset(of_cotangent, position)) * scale : scale;
  }
};

// The number of an operand of type T, whatever the arithmetic on it is elsewhere: here it is that of its wide type.
template <class T>
using WideNumber = Scalar<typename Wide<T>::type>;

template <class T>
__device__ __forceinline__ WideNumber<T> number_at(const void* data, int64_t at) {
  return widen<WideNumber<T>>(load<1>(static_cast<const T*>(data) + at).v[0]);
}

template <class T>
__device__ __forceinline__ void store_gradient(void* data, int64_t at, WideNumber<T> gradient) {
  const WideNumber<T> one[1] = {gradient};
  WideNumber<T> held[1];
  bound<T>(one, held);
  store<T>(data, at, held);
}

// Calls kernel(T()) for the type of the parameters.
template <class Launch>
cudaError_t with_parameters(Type type, const Launch& launch) {
  switch (type) {
    case Type::f64: return launch(double());
    case Type::f32: return launch(float());
    case Type::bf16: return launch(__nv_bfloat16());
    case Type::f16: return launch(__half());
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace aevb::device
