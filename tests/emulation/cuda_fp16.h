// float16, as far as csrc/cuda asks for it.
#pragma once
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half a) {
  _Float16 half;
  std::memcpy(&half, &a, sizeof(half));
  return float(half);
}

inline __half __float2half_rn(float a) {
  const auto half = static_cast<_Float16>(a);
  __half result;
  std::memcpy(&result, &half, sizeof(half));
  return result;
}

inline unsigned short __half_as_ushort(__half a) { return a.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
