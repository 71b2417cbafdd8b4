// Sums over the threads of a group, always in the same order: a tree.
#pragma once
#include "cuda/load.cuh"

namespace aevb::device {

template <class N>
__device__ __forceinline__ N add_across(N a, int width) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const N other(__shfl_xor_sync(0xffffffffu, a.v, distance));
    a = select(distance < width, a + other, a);
  }
  return a;
}

// Afterwards lane 0 of the group has the sums. Every thread of the block has to call this.
template <int count, class N>
__device__ __forceinline__ void group_sum(N (&sum)[count], int group) {
#pragma unroll
  for (int k = 0; k < count; ++k) sum[k] = add_across(sum[k], group < kWarp ? group : kWarp);
  if (group <= kWarp) return;

  constexpr int warps = kBlockThreads / kWarp;
  __shared__ N of_warp[count][warps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int k = 0; k < count; ++k)
    if (lane == 0) of_warp[k][warp] = sum[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < count; ++k)
    if (warp == 0) sum[k] = add_across(lane < warps ? of_warp[k][lane] : N(0), warps);
  __syncthreads();  // of_warp is written again for the next tile
}

}  // namespace aevb::device
