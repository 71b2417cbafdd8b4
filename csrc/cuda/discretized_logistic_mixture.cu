// The log-likelihood of pixels under a mixture of discretised logistics: a thread has a pixel.
#include "cuda/positions.cuh"
#include "formulas/discretized_logistic_mixture.h"

namespace aevb::device {
namespace {

constexpr int kThreads = 128;

template <class T>
struct Component {
  using N = WideNumber<T>;
  N logit, mean[3], log_scale[3], z[3];

  __device__ __forceinline__ Component(const PositionTask& task, const MixtureLayout& layout, int64_t first,
                                       int64_t k) {
    const auto parameter = [&](int64_t n) {
      return number_at<T>(task.parameters, first + n * task.of_parameters.step);
    };
    logit = parameter(layout.logit(k));
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      mean[c] = parameter(layout.mean(c, k));
      log_scale[c] = parameter(layout.log_scale(c, k));
      z[c] = parameter(layout.coefficient(c, k));
    }
  }
};

template <class T>
__device__ __forceinline__ Pixel<WideNumber<T>> load_pixel(const PositionTask& task, int64_t position) {
  using N = WideNumber<T>;
  const int64_t first = task.of_x(position);
  N colour[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const N given = Element<Any, N>::get(task.x_type, task.x, first + c * task.of_x.step);
    // Bytes are levels of 2/255.
    colour[c] = task.x_type == Type::u8 ? fma(given, N(2.0 / 255), N(-1)) : given;
  }
  return {colour[0], colour[1], colour[2]};
}

template <class T>
__global__ void __launch_bounds__(kThreads) mixture(const __grid_constant__ PositionTask task) {
  using N = WideNumber<T>;
  using Factor = typename Wide<T>::type;
  const MixtureLayout layout = {task.size / 10};
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < task.positions;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t first = task.of_parameters(i);
    const Pixel<N> x = load_pixel<T>(task, i);
    ExpSum<N> joint, prior;
#pragma unroll 1
    for (int64_t k = 0; k < layout.components; ++k) {
      const Component<T> of(task, layout, first, k);
      const LogisticComponent<N> component(x, of.mean, of.log_scale, of.z);
      joint.add(of.logit + component.exponent, component.moderate);
      prior.add(of.logit, N(1));
    }
    if (task.value) {
      const N value[1] = {(joint.top - prior.top) + log(joint.total / prior.total)};
      store<Factor>(task.value, i, value);
    }
    if (!task.gradient) continue;
    const int64_t to = task.of_gradient(i);
    const auto write = [&](int64_t n, N gradient) {
      store_gradient<T>(task.gradient, to + n * task.of_gradient.step, gradient);
    };
    const N g(task.cotangent_of<Factor>(i));
    const N of_joint = select(joint.total == N(0), N(0), g / joint.total), of_prior = g / prior.total;
#pragma unroll 1
    for (int64_t k = 0; k < layout.components; ++k) {
      Component<T> of(task, layout, first, k);
      const LogisticComponent<N> component(x, of.mean, of.log_scale, of.z);
      const N responsibility = exp(of.logit + component.exponent - joint.top) * component.moderate * of_joint;
      write(layout.logit(k), responsibility - exp(of.logit - prior.top) * of_prior);
      component.gradient(x, of.mean, of.log_scale, of.z);
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        write(layout.mean(c, k), product(responsibility, of.mean[c]));
        write(layout.log_scale(c, k), product(responsibility, of.log_scale[c]));
        write(layout.coefficient(c, k), product(responsibility, of.z[c]));
      }
    }
  }
}

}  // namespace

cudaError_t discretized_logistic_mixture(const PositionCall& call, cudaStream_t stream) {
  const PositionTask task(call);
  const auto grid = static_cast<unsigned>(std::min((task.positions + kThreads - 1) / kThreads, kMaxGrid));
  return with_parameters(call.parameters.first.type,
                         [&](auto type) { return launch(mixture<decltype(type)>, grid, kThreads, stream, task); });
}

}  // namespace aevb::device
