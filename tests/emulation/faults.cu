// A kernel for each fault that the machine is to find. What it says of each is printed, and of a sound one after it.
#include <cstdio>
#include <map>
#include <string>

#include "cuda/launch.cuh"
#include "machine.h"

namespace faults {

constexpr unsigned kThreads = 64;

struct Task {
  const float* in;  // of kThreads + 1 numbers
  float* out;       // of kThreads
};

__global__ void sound(const __grid_constant__ Task task) {
  __shared__ float of_block[kThreads];
  const unsigned i = threadIdx.x;
  float sum = __ldg(task.in + i);
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  of_block[i] = sum;
  __syncthreads();
  task.out[i] = of_block[(i + 32) % kThreads] + of_block[i];
}

__global__ void lane_leaves_out_a_shuffle(const __grid_constant__ Task task) {
  float value = task.in[threadIdx.x];
  if (threadIdx.x != 37) value = __shfl_xor_sync(0xffffffffu, value, 1);
  task.out[threadIdx.x] = value;
}

__global__ void lanes_at_two_shuffles(const __grid_constant__ Task task) {
  float value = task.in[threadIdx.x];
  value = threadIdx.x % 2 ? __shfl_xor_sync(0xffffffffu, value, 1) : __shfl_xor_sync(0xffffffffu, value, 2);
  task.out[threadIdx.x] = value;
}

__global__ void mask_without_the_lane(const __grid_constant__ Task task) {
  task.out[threadIdx.x] = __shfl_xor_sync(0x7fffffffu, task.in[threadIdx.x], 1);
}

__global__ void thread_leaves_out_a_barrier(const __grid_constant__ Task task) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  task.out[threadIdx.x] = 1;
}

__global__ void warp_waits_elsewhere(const __grid_constant__ Task task) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    task.out[threadIdx.x] = 1;
}

__global__ void missing_barrier(const __grid_constant__ Task task) {
  __shared__ float of_block[kThreads];
  of_block[threadIdx.x] = task.in[threadIdx.x];
  task.out[threadIdx.x] = of_block[threadIdx.x / 32 * 32];
}

__global__ void barrier_before_reuse_missing(const __grid_constant__ Task task) {
  __shared__ float of_block[1];
  float sum = 0;
  for (int k = 0; k < 2; ++k) {
    if (threadIdx.x == 0) of_block[0] = task.in[k];
    __syncthreads();
    sum += of_block[0];
  }
  task.out[threadIdx.x] = sum;
}

__global__ void shared_not_written(const __grid_constant__ Task task) {
  __shared__ float of_block[kThreads];
  if (threadIdx.x > 0 || blockIdx.x == 0) of_block[threadIdx.x] = 1;
  __syncthreads();
  if (blockIdx.x == 1) task.out[threadIdx.x] = of_block[kThreads - 1 - threadIdx.x];
}

__global__ void unaligned_load(const __grid_constant__ Task task) {
  const uint4 word = __ldg(reinterpret_cast<const uint4*>(task.in + 1));
  task.out[threadIdx.x] = float(word.part[0]);
}

__global__ void unaligned_store(const __grid_constant__ Task task) {
  if (threadIdx.x == 0) *reinterpret_cast<uint2*>(task.out + 1) = uint2();
}

__global__ void load_beyond_the_end(const __grid_constant__ Task task) {
  task.out[threadIdx.x] = task.in[threadIdx.x + 2];
}

__global__ void store_beyond_the_end(const __grid_constant__ Task task) { task.out[threadIdx.x + 1] = 1; }

__global__ void store_before_the_start(const __grid_constant__ Task task) { task.out[int(threadIdx.x) - 1] = 1; }

__global__ void null_pointer(const __grid_constant__ Task task) {
  task.out[threadIdx.x] = __ldg(task.in + threadIdx.x);
}

__global__ void store_to_an_operand(const __grid_constant__ Task task) { const_cast<float*>(task.in)[threadIdx.x] = 1; }

__global__ void load_from_a_result(const __grid_constant__ Task task) {
  task.out[threadIdx.x] = 1;
  task.out[threadIdx.x] += 1;
}

__global__ void written_twice(const __grid_constant__ Task task) {
  task.out[threadIdx.x] = 1;
  if (threadIdx.x == 9) task.out[8] = 1;
}

__global__ void not_written(const __grid_constant__ Task task) {
  if (threadIdx.x != 63) task.out[threadIdx.x] = 1;
}

const std::map<std::string, void (*)(Task)> kernels = {
    {"sound", sound},
    {"lane_leaves_out_a_shuffle", lane_leaves_out_a_shuffle},
    {"lanes_at_two_shuffles", lanes_at_two_shuffles},
    {"mask_without_the_lane", mask_without_the_lane},
    {"thread_leaves_out_a_barrier", thread_leaves_out_a_barrier},
    {"warp_waits_elsewhere", warp_waits_elsewhere},
    {"missing_barrier", missing_barrier},
    {"barrier_before_reuse_missing", barrier_before_reuse_missing},
    {"shared_not_written", shared_not_written},
    {"unaligned_load", unaligned_load},
    {"unaligned_store", unaligned_store},
    {"load_beyond_the_end", load_beyond_the_end},
    {"store_beyond_the_end", store_beyond_the_end},
    {"store_before_the_start", store_before_the_start},
    {"null_pointer", null_pointer},
    {"store_to_an_operand", store_to_an_operand},
    {"load_from_a_result", load_from_a_result},
    {"written_twice", written_twice},
    {"not_written", not_written},
};

// After a fault the machine runs the next kernel as if nothing had been.
std::string said_of(const std::string& name) {
  constexpr size_t bytes = kThreads * sizeof(float);
  alignas(16) float memory[4 * kThreads];
  float *const in = memory, *const out = memory + 2 * kThreads;
  for (unsigned i = 0; i <= kThreads; ++i) in[i] = float(i);
  const emulation::Watch watch({{"in", in, bytes + sizeof(float), 0, 1, false}, {"out", out, bytes, 0, 1, true}});
  try {
    const auto error = aevb::device::launch(kernels.at(name), dim3(name == "shared_not_written" ? 2 : 1), kThreads,
                                            nullptr, Task{name == "null_pointer" ? nullptr : in, out});
    if (error != cudaSuccess) return "cudaError_t " + std::to_string(error);
    watch.finish();
  } catch (const emulation::Fault& fault) {
    return fault.what();
  }
  for (unsigned i = 0; i < kThreads; ++i)
    if (name == "sound" && out[i] != kThreads * (kThreads - 1) / 2) return "a wrong sum";
  return "nothing";
}

}  // namespace faults

int main() {
  for (const auto& [name, kernel] : faults::kernels)
    std::printf("%s: %s\nsound: %s\n", name.c_str(), faults::said_of(name).c_str(), faults::said_of("sound").c_str());
}
