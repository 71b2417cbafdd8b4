// The cotangents that a device has seen, from which a forward guesses the next one (Guesses in call.h).
#pragma once
#include "cuda/load.cuh"

// What a device keeps from one launch to the next. The emulation has to tell it from memory that a block shares.
#ifndef AEVB_DEVICE_MEMORY
#define AEVB_DEVICE_MEMORY __device__
#endif

namespace aevb::device {

// Of the calls with one key. At first the guess is 1, with which a loss's own backward starts; then the cotangent that
// the last two calls had, if it was the same in both, else NaN: no gradient is computed for that.
template <class Factor>
struct History {
  Factor guess = 1, last = 1;  // no cotangent: 0
};

namespace {

// Memory of the program itself: it is there before the first capture, and no graph's.
AEVB_DEVICE_MEMORY History<float> histories[kHistories];
AEVB_DEVICE_MEMORY History<double> double_histories[kHistories];

template <class Factor>
__device__ __forceinline__ History<Factor>& history_of(int number) {
  if constexpr (std::is_same_v<Factor, double>)
    return double_histories[number];
  else
    return histories[number];
}

}  // namespace

// The guess, the same for all threads of a block, even if another stream writes the history meanwhile. Every thread of
// the block has to call this.
template <class Factor>
__device__ __forceinline__ Factor guess_of(int history) {
  __shared__ Factor guess;
  if (threadIdx.x == 0) guess = history_of<Factor>(history).guess;
  __syncthreads();
  return guess;
}

// Writes down the cotangent of a call: that of its first row, if the last has the same. Zero and NaN are no guess.
template <class Factor>
__device__ __forceinline__ void remember(int history, Factor first, Factor last) {
  History<Factor>& kept = history_of<Factor>(history);
  const Factor seen = first == last ? first : Factor(0), before = kept.last;
  kept.guess = seen != Factor(0) && seen == before ? seen : static_cast<Factor>(__builtin_nan(""));
  kept.last = seen;
}

// Whether the gradient for a guess is that for the cotangent, bit for bit.
template <class Factor>
__device__ __forceinline__ bool was_right(Factor guess, Factor cotangent) {
  return guess == cotangent && guess != Factor(0);
}

}  // namespace aevb::device
