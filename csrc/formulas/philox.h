// Philox4x32-10 (Salmon et al. 2011): a noise key and an index in, four random words out. aevb_ext/noise.py is the same
// in Python, with the layout of key and counter in words.
#pragma once
#include "formulas/numerics.h"

namespace aevb::AEVB_ISA {

// U is an unsigned 32-bit number type with ^ and multiply(U, constant, U& high, U& low), the two halves of the product.
template <class U>
struct PhiloxBlock {
  U word[4];
};

// The two key words of each round. K is what U can be xored with.
template <class K>
struct PhiloxKeys {
  K word[10][2];

  AEVB_INLINE PhiloxKeys(unsigned key0, unsigned key1) {
    AEVB_UNROLL
    for (int round = 0; round < 10; ++round) {
      word[round][0] = K(key0 + round * 0x9E3779B9u);
      word[round][1] = K(key1 + round * 0xBB67AE85u);
    }
  }
};

template <class U, class K>
AEVB_INLINE PhiloxBlock<U> philox4x32_10(PhiloxBlock<U> c, const PhiloxKeys<K>& key) {
  AEVB_UNROLL
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high1, low1;
    multiply(c.word[0], 0xD2511F53u, high0, low0);
    multiply(c.word[2], 0xCD9E8D57u, high1, low1);
    c = {{high1 ^ c.word[1] ^ key.word[round][0], low1, high0 ^ c.word[3] ^ key.word[round][1], low0}};
  }
  return c;
}

}  // namespace aevb::AEVB_ISA
