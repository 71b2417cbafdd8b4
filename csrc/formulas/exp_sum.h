// A sum of exponentials whose terms come one after another.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

template <class N>
AEVB_INLINE N larger(N a, N b) {
  return select(b > a, b, a);
}

// The sum of e^(l - top), where top is the largest l so far or, of -infinity alone, the lowest number, so that e^(l -
// top) is 0.
template <class N>
struct ExpSum {
  N top{-(N::digits > 24 ? 0x1.fffffffffffffp1023 : 0x1.fffffep127)}, total{0.0};

  AEVB_INLINE void raise(N to) {
    total = total * exp(top - to);
    top = to;
  }
  // Adds factor e^l.
  AEVB_INLINE void add(N l, N factor) {
    raise(larger(top, l));
    total = fma(factor, exp(l - top), total);
  }
};

}  // namespace aevb::AEVB_ISA
