// Box-Muller: two random words in, two standard normals out.
#pragma once
#include <cstdint>

#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// sqrt(-2 log u), for 0 < u <= 1 that is not subnormal; right to an ulp, also near u = 1.
template <class N>
AEVB_INLINE N normal_radius(N u) {
  if constexpr (N::digits > 24) {
    return sqrt(N(-2) * log(u));
  } else {
    // u = (1 + f) 2^e with 1 + f in [2/3, 4/3), whose lower end has these bits; e stays in the place of the exponent.
    auto bits = u.bits(), power = (bits - 0x3f2aaaab) & ~0x7fffff;
    N f = N::of_bits(bits - power) - N(1);
    // log(1 + f) = f - f^2 (...), the minimax polynomial to 2.6e-8, times -2.
    constexpr double c[] = {2 * 0.4999993212222057,   -2 * 0.3333316870455926, 2 * 0.2500802725603879,
                            -2 * 0.20011944368838142, 2 * 0.1641279117291298,  -2 * 0.13987650846046296,
                            2 * 0.15403197669183544,  -2 * 0.14056113084249489};
    N logarithm = fma(polynomial(f, c) * f, f, N(-2) * f);
    return root(fma(N::of_integer(power), N(-2 * 0.69314718055994531 / 8388608), logarithm));
  }
}

// sin and cos of 2 pi t, 0 <= t <= 1, in float32: reduced exactly to an eighth of a turn on either side of the nearest
// quarter.
template <class N>
AEVB_INLINE void float_sincos_turns(N t, N& sine, N& cosine) {
  constexpr double to_integer = 12582912;  // 1.5 2^23: the lowest bits of a sum are those of the number of quarters
  N shifted = fma(t, N(4), N(to_integer));
  N x = fma(shifted - N(to_integer), N(-0.25), t) * N(6.283185307179586477);
  N z = x * x;
  N s = fma(N(-1.9515295891e-4), z, N(8.3321608736e-3));
  s = fma(fma(s, z, N(-1.6666654611e-1)) * z, x, x);
  N c = fma(N(2.443315711809948e-5), z, N(-1.388731625493765e-3));
  c = fma(fma(fma(c, z, N(4.166664568298827e-2)), z, N(-0.5)), z, N(1));
  auto quarters = shifted.bits();
  auto even = (quarters & 1) == 0;
  // Signs by quadrant: sine + + - -, cosine + - - +.
  sine = N::of_bits(select(even, s, c).bits() ^ ((quarters << 30) & INT32_MIN));
  cosine = N::of_bits(select(even, c, s).bits() ^ (((quarters + 1) << 30) & INT32_MIN));
}

// Converts two 32-bit words, already of type N, to two normals. The first uniform is in (0, 1], the second in [0, 1].
template <class N>
AEVB_INLINE void box_muller(N a, N b, N& first, N& second) {
  constexpr double ulp = 1.0 / 4294967296.0;
  N radius = normal_radius(fma(a, N(ulp), N(0.5 * ulp)));
  N sine, cosine;
  sincos_turns(b * N(ulp), sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

}  // namespace aevb::AEVB_ISA
