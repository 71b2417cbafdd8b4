// The log-likelihood of classes: a group of threads has a position's logits, or a thread has, where they are few or lie
// apart and those of the next position beside them.
#include "cuda/positions.cuh"

namespace aevb::device {
namespace {

struct CategoricalTask : PositionTask {
  int group;  // threads of a position: 1, a warp or a block

  CategoricalTask(const PositionCall& call) : PositionTask(call), group(group_for(call)) {}

 private:
  static int group_for(const PositionCall& call) {
    if (call.size < kWarp || call.parameters.step != 1) return 1;
    return call.size < 8 * kBlockThreads ? kWarp : kBlockThreads;
  }
};

template <class X>
__device__ __forceinline__ int64_t class_of(const void* data, int64_t at, int64_t size) {
  const X x = static_cast<const X*>(data)[at];
  if constexpr (std::is_integral_v<X>) {
    const int64_t given = x;
    return given >= 0 && given < size ? given : -1;
  } else {
    double given;
    if constexpr (sizeof(X) == 2)
      given = widen<F32>(x).v;
    else
      given = x;
    if (!(given >= 0 && given < double(size))) return -1;
    return double(int64_t(given)) == given ? int64_t(given) : -1;
  }
}

// -1: none.
__device__ __forceinline__ int64_t class_at(Type type, const void* data, int64_t at, int64_t size) {
  switch (type) {
    case Type::f64: return class_of<double>(data, at, size);
    case Type::f32: return class_of<float>(data, at, size);
    case Type::bf16: return class_of<__nv_bfloat16>(data, at, size);
    case Type::f16: return class_of<__half>(data, at, size);
    case Type::u8: return class_of<uint8_t>(data, at, size);
    case Type::i16: return class_of<int16_t>(data, at, size);
    case Type::i32: return class_of<int32_t>(data, at, size);
    default: return class_of<int64_t>(data, at, size);
  }
}

template <class N>
__device__ __forceinline__ ExpSum<N> sum_of(ExpSum<N> a, const ExpSum<N>& b) {
  a.raise(larger(a.top, b.top));
  a.total = fma(b.total, exp(b.top - a.top), a.total);
  return a;
}

// The sum over a group, in all of its threads, always in the same order. Every thread of the block has to call this.
template <class N>
__device__ __forceinline__ ExpSum<N> group_sum(ExpSum<N> sum, int group) {
  if (group == 1) return sum;
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    ExpSum<N> other;
    other.top = N(__shfl_xor_sync(0xffffffffu, sum.top.v, distance));
    other.total = N(__shfl_xor_sync(0xffffffffu, sum.total.v, distance));
    sum = sum_of(sum, other);
  }
  if (group == kWarp) return sum;
  constexpr int warps = kBlockThreads / kWarp;
  __shared__ N top[warps], total[warps];
  if (threadIdx.x % kWarp == 0) top[threadIdx.x / kWarp] = sum.top, total[threadIdx.x / kWarp] = sum.total;
  __syncthreads();
  sum = ExpSum<N>();
  for (int w = 0; w < warps; ++w) {
    ExpSum<N> other;
    other.top = top[w], other.total = total[w];
    sum = sum_of(sum, other);
  }
  __syncthreads();  // they are written again for the next position
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads) categorical_kernel(const __grid_constant__ CategoricalTask task) {
  using N = WideNumber<T>;
  using Factor = typename Wide<T>::type;
  const int lane = threadIdx.x % task.group, in_block = kBlockThreads / task.group;
  const int64_t step = task.of_parameters.step;
  for (int64_t begin = int64_t(blockIdx.x) * in_block; begin < task.positions; begin += int64_t(gridDim.x) * in_block) {
    const int64_t i = begin + threadIdx.x / task.group;
    const bool here = i < task.positions;
    const int64_t first = here ? task.of_parameters(i) : 0;
    ExpSum<N> sum;
    if (here)
      for (int64_t c = lane; c < task.size; c += task.group)
        sum.add(number_at<T>(task.parameters, first + c * step), N(1));
    sum = group_sum(sum, task.group);
    if (!here) continue;
    const int64_t x = class_at(task.x_type, task.x, task.of_x(i), task.size);
    const N none(__builtin_nan(""));
    if (task.value && lane == 0) {
      const N chosen = x < 0 ? none : number_at<T>(task.parameters, first + x * step);
      const N value[1] = {(chosen - sum.top) - log(sum.total)};
      store<Factor>(task.value, i, value);
    }
    if (!task.gradient) continue;
    const int64_t to = task.of_gradient(i);
    const N g(task.cotangent_of<Factor>(i)), times = x < 0 ? none : -g / sum.total;
    for (int64_t c = lane; c < task.size; c += task.group) {
      const N of_sum = exp(number_at<T>(task.parameters, first + c * step) - sum.top) * times;
      store_gradient<T>(task.gradient, to + c * task.of_gradient.step, c == x ? of_sum + g : of_sum);
    }
  }
}

}  // namespace

cudaError_t categorical(const PositionCall& call, cudaStream_t stream) {
  const CategoricalTask task(call);
  const int64_t in_block = kBlockThreads / task.group;
  const auto grid = static_cast<unsigned>(std::min((task.positions + in_block - 1) / in_block, kMaxGrid));
  return with_parameters(call.parameters.first.type, [&](auto type) {
    return launch(categorical_kernel<decltype(type)>, grid, kBlockThreads, stream, task);
  });
}

}  // namespace aevb::device
