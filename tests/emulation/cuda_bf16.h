// bfloat16, as far as csrc/cuda asks for it.
#pragma once
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 a) {
  const uint32_t word = uint32_t(a.bits) << 16;
  float result;
  std::memcpy(&result, &word, sizeof(word));
  return result;
}

// To the nearest, of two to the even one.
inline __nv_bfloat16 __float2bfloat16_rn(float a) {
  if (a != a) return {0x7fff};
  uint32_t word;
  std::memcpy(&word, &a, sizeof(word));
  return {static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16)};
}

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
