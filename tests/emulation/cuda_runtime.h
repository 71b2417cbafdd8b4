// CUDA on the CPU, as far as csrc/cuda asks for it: with this folder before any toolkit's among the headers, the host's
// compiler makes a function of every kernel, and a launch calls it once for each thread of each block (machine.h).
//
// Results are the host's: each operation rounded by itself, where nvcc makes one of a product and a sum, and functions
// rounded from double, where a GPU's are an ulp or two off. What is undefined on a GPU is an error here.
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <typeinfo>

#include "cuda_runtime_api.h"
#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define AEVB_DEVICE_MEMORY __attribute__((section("device_memory")))
// One block runs at a time. Nothing initialises it, though GCC would look whether it was, in templates.
#define __shared__ constinit static

inline constexpr const dim3 &threadIdx = emulation::place.thread, &blockIdx = emulation::place.block,
                            &blockDim = emulation::place.threads, &gridDim = emulation::place.blocks;

// Words that are loaded and stored as one, which the compiler here may take apart.
template <int count>
struct alignas(4 * count) WideWord {
  unsigned part[count];

  WideWord() = default;
  WideWord(const WideWord& from) {
    emulation::check_alignment(&from, sizeof(from));
    for (int k = 0; k < count; ++k) part[k] = from.part[k];
  }
  WideWord& operator=(const WideWord& from) {
    emulation::check_alignment(this, sizeof(*this));
    for (int k = 0; k < count; ++k) part[k] = from.part[k];
    return *this;
  }
};
using uint2 = WideWord<2>;
using uint4 = WideWord<4>;

template <class Parameter>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameter), const Parameter& given) {
  static_assert(sizeof(Parameter) <= 4096, "a parameter that every GPU takes");
  const dim3 g = config->gridDim, b = config->blockDim;
  const bool fits = g.x >= 1 && g.x <= INT_MAX && g.y >= 1 && g.y <= 65535 && g.z == 1 && b.x >= 1 && b.x <= 1024 &&
                    b.y == 1 && b.z == 1;
  if (!fits) return cudaErrorInvalidConfiguration;
  struct Body final : emulation::Body {
    void (*kernel)(Parameter);
    const Parameter& given;
    Body(void (*kernel)(Parameter), const Parameter& given) : kernel(kernel), given(given) {}
    EMULATION_UNWATCHED void operator()() const override { kernel(given); }
    std::string name() const override {
      return emulation::name_of(reinterpret_cast<const void*>(kernel), typeid(Parameter).name());
    }
  };
  emulation::launch(Body(kernel, given), g, b);
  return cudaSuccess;
}

inline void __syncthreads() { emulation::barrier(); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = emulation::shuffle({mask, distance, sizeof(T), word});
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

// A load that is cached on the understanding that the launch writes nothing there: machine.h sees to that.
template <class T>
inline T __ldg(const T* p) {
  return *p;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return uint64_t(Wide(a) * b >> 64);
}
inline int __float_as_int(float a) {
  int bits;
  std::memcpy(&bits, &a, sizeof(bits));
  return bits;
}
inline float __int_as_float(int bits) {
  float a;
  std::memcpy(&a, &bits, sizeof(a));
  return a;
}
// Cut off to a float's 24 bits.
inline float __uint2float_rz(unsigned a) {
  const int over = a >> 24 ? 8 - __builtin_clz(a) : 0;
  return float(a >> over << over);
}

namespace emulation {

inline float exp_of_float(float a) { return float(std::exp(double(a))); }
inline float log_of_float(float a) { return float(std::log(double(a))); }
inline float log1p_of_float(float a) { return float(std::log1p(double(a))); }

template <class T>
void sincospi(T a, T* sine, T* cosine) {
  constexpr long double pi = 3.14159265358979323846264338327950288L;
  const long double part = std::remainder(static_cast<long double>(a), 2.0L);
  *sine = T(std::sin(part * pi));
  *cosine = T(std::abs(part) == 0.5L ? 0 : std::cos(part * pi));
}

// The special-function unit errs by as much as it may, up for some numbers and down for others.
inline float special(float exact, double relative, double absolute, bool flushes) {
  if (!std::isfinite(exact)) return exact;
  uint32_t bits;
  std::memcpy(&bits, &exact, sizeof(bits));
  const double error = std::max(relative * std::abs(exact), absolute);
  const float result = exact + (bits * 0x9E3779B9u >> 31 ? error : -error);
  return flushes && std::abs(result) < 0x1p-126f ? 0.0f : result;
}
#define AEVB_SPECIAL(instruction, relative, absolute, exact) \
  return ::emulation::special(exact, relative, absolute, std::strstr(instruction, ".ftz."))

}  // namespace emulation

// The C library has functions of these names, which need not agree from one to another.
#define expf(a) ::emulation::exp_of_float(a)
#define logf(a) ::emulation::log_of_float(a)
#define log1pf(a) ::emulation::log1p_of_float(a)
inline void sincospif(float a, float* sine, float* cosine) { emulation::sincospi(a, sine, cosine); }
inline void sincospi(double a, double* sine, double* cosine) { emulation::sincospi(a, sine, cosine); }
