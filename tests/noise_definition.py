"""The definition of the noise once more, in NumPy, independent of `aevb_ext.noise` and of the compiled operators."""

import math

import numpy as np
import torch

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32_10(counter, key):
    """Four arrays of 32-bit words from four counter words and two key words (Salmon et al. 2011, section 3.3)."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = (np.asarray(k, dtype=np.uint64) for k in key)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> _SHIFT) ^ c1 ^ k0, b & _MASK, (a >> _SHIFT) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _MASK, (k1 + np.uint64(0xBB67AE85)) & _MASK
    return c0, c1, c2, c3


def words(key, count, start=0):
    """`count` pairs of words of `key` from block `start` on, as two arrays: those of the radius, those of the angle."""
    seed, offset = (np.uint64(int(k) % 2**64) for k in key)
    block = np.uint64(start) + np.arange((count + 1) // 2, dtype=np.uint64)
    halves = [(part & _MASK, part >> _SHIFT) for part in (block, offset, seed)]
    a0, b0, a1, b1 = philox4x32_10([*halves[0], *halves[1]], halves[2])
    return np.stack([a0, a1], -1).ravel()[:count], np.stack([b0, b1], -1).ravel()[:count]


def normals(key, shape, uniforms=torch.float64, start=0):
    """Standard normals of `key` in float64, and the radius of each (the scale that their rounding errors have).

    They are those from index `4 * start` on. `uniforms` is the type in which the words become uniform numbers, which is
    where float32 and float64 noise part; what follows (logarithm, root, sine and cosine) is exact to float64 anyway.
    """
    count = math.prod(shape)
    a, b = words(key.tolist(), (count + 1) // 2, start)
    number = np.float32 if uniforms == torch.float32 else np.float64
    u = (a.astype(number) * number(2.0**-32) + number(2.0**-33)).astype(np.float64)
    t = (b.astype(number) * number(2.0**-32)).astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * math.pi * t
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).ravel()[:count]
    return torch.from_numpy(both).reshape(shape), torch.from_numpy(np.repeat(radius, 2)[:count]).reshape(shape)
