"""Noise keys, and the definition of the standard normal noise that a key stands for.

A *noise key* is an int64 tensor ``[2]``, ``(seed, offset)``, on the device where it is used. Element ``i`` of the noise
(its row-major logical index, whatever the strides) is made from 32-bit word ``i % 4`` of the Philox4x32-10 block
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with

    key     = (seed mod 2^32, seed div 2^32)
    counter = (block mod 2^32, block div 2^32, offset mod 2^32, offset div 2^32),   block = i div 4

and each pair of words ``(a, b)`` gives two normals by the Box-Muller transform (1958):

    u = (a + 1/2) / 2^32,   t = b / 2^32,   r = sqrt(-2 ln u),   (r cos 2 pi t, r sin 2 pi t).

Binarisation draws a 1 with probability p: an element is 1 if the word of its index is below ``p 2^32``. Normals of the
same key use the same words, so independent draws need another key.

Keys ``[*batch, 2]`` are one for each data point. Its noise then depends on its own key alone, not on the batch that it
is in.

The functions here are this definition in plain PyTorch. The compiled operators draw the same words.
"""

import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._arguments import KINDS, Check, described, explained, instance, integer, kind, sizes, tensor
from ._types import Device

__all__ = ["keys_at", "keys_of", "philox4x32", "rekeyed", "seed_for", "standard_normal", "words"]

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def _words(count: int) -> Check:
    """A check that an argument is a list of ``count`` words."""

    def fits(value: object) -> bool:
        return isinstance(value, (list, tuple)) and len(value) == count and all(map(torch.is_tensor, value))

    return kind(fits, f"a list of {count} tensors of int64")


_INT64 = tensor(torch.int64)


@explained(counter=_words(4), key=_words(2), rounds=integer)
def philox4x32(counter: list[Tensor], key: list[Tensor], rounds: int = 10) -> list[Tensor]:
    """Philox4x32: four 32-bit words from four counter words and two key words.

    All words are int64 tensors holding values in ``[0, 2^32)``; they broadcast against each other.
    """
    counter, key = list(counter), list(key)
    for _ in range(rounds):
        # int64 products wrap modulo 2^64, so masking recovers both halves of the 64-bit product.
        product = [counter[2 * i] * _MULTIPLIER[i] for i in range(2)]
        low, high = [p & _MASK for p in product], [(p >> 32) & _MASK for p in product]
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]]
        key = [(k + w) & _MASK for k, w in zip(key, _WEYL, strict=True)]
    return counter


@explained(count=integer, start=integer)
def words(key: Tensor, count: int, start: int = 0) -> Tensor:
    """``count`` words of each key from index ``start`` on: int64 ``[*batch, count]``, each in ``[0, 2^32)``.

    Args:
        key: int64 ``[*batch, 2]``.

    Raises:
        TypeError, ValueError: key is something else, or count or start is negative.
    """
    _check_key(key)
    if min(sizes((count, start))) < 0:
        raise ValueError(f"count and start must be at least 0, got {count} and {start}")
    seed, offset = key[..., :1], key[..., 1:]
    block = torch.arange(start // 4, (start + count + 3) // 4, device=key.device)
    halves = [(part & _MASK, (part >> 32) & _MASK) for part in (block, offset, seed)]
    every = torch.stack(philox4x32([*halves[0], *halves[1]], list(halves[2])), dim=-1).flatten(-2)
    return every.narrow(-1, start % 4, count)


@explained(start=integer)
def standard_normal(key: Tensor, shape: tuple[int, ...], dtype: torch.dtype, start: int = 0) -> Tensor:
    """The noise of each key: standard normals ``[*batch, *shape]`` of ``dtype`` on the device of ``key``.

    Args:
        key: int64 ``[*batch, 2]``.
        shape: the shape of the noise of one key.
        dtype: float32 or float64.
        start: the index of the first element.

    Raises:
        TypeError, ValueError: an argument has another type, or a size or start is negative.
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be float32 or float64, got {described(dtype)}")
    if any(size < 0 for size in sizes(shape)):
        raise ValueError(f"shape must have no negative size, got {list(shape)}")
    count = math.prod(shape)
    # A pair of words gives a pair of normals.
    first, last = start // 2 * 2, (start + count + 1) // 2 * 2
    pairs = words(key, last - first, first).to(dtype)
    # Every implementation rounds in this order, so that all agree on u to the last bit.
    u = pairs[..., ::2] * 2.0**-32 + 2.0**-33
    radius, angle = (-2 * u.log()).sqrt(), (2 * math.pi) * (pairs[..., 1::2] * 2.0**-32)
    normals = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(-2)
    return normals.narrow(-1, start - first, count).reshape((*key.shape[:-1], *shape))


# The purposes of noise: keys of different purposes are independent.
PURPOSES = {
    "posterior": 1,
    "binarize": 2,
    "evaluation": 3,
    "order": 4,
    "evaluation binarize": 5,
    "model": 6,
    "dream": 7,
    "dream x": 8,
    "hmc": 9,
    "ais": 10,
    "chains": 11,
    "generation": 12,
    "pixels": 13,
    "augmentation": 14,
    "theta": 15,
    "marginal": 16,
    "ais tuning": 17,
}


@explained(seed=integer, purpose=instance(str, "a purpose's name"), index=_INT64)
def keys_at(seed: int, purpose: str, index: Tensor) -> Tensor:
    """A noise key for each index. It depends on these arguments alone, not on the batch or process.

    Args:
        seed: any integer; modulo 2^64.
        purpose: one of ``PURPOSES``.
        index: int64, of any shape.

    Returns:
        int64 ``[*index.shape, 2]`` on index's device: ``(mixed seed and purpose, index)``.
    """
    _INT64("index", index)
    return torch.stack([torch.full_like(index, seed_for(seed, purpose)), index], -1)


@explained(purpose=instance(str, "a purpose's name"))
def rekeyed(key: Tensor, purpose: str) -> Tensor:
    """For each key a key of another purpose, whose noise is independent.

    Args:
        key: int64 ``[*batch, 2]``.
        purpose: one of ``PURPOSES``.

    Returns:
        int64 ``[*batch, 2]``: the same offsets, and the seeds XOR the purpose's seed.
    """
    _check_key(key)
    return torch.stack([key[..., 0] ^ seed_for(0, purpose), key[..., 1]], -1)


@explained(seed=integer, purpose=instance(str, "a purpose's name"))
def seed_for(seed: int, purpose: str) -> int:
    """A seed in ``[-2^63, 2^63)`` for one purpose: the output of SplitMix64 (Steele et al. 2014) at seed and purpose.

    Raises:
        ValueError: the purpose is unknown.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}")
    state = _splitmix(_splitmix(operator.index(seed)) + PURPOSES[purpose])
    return state - (1 << 64) if state >> 63 else state


def _check_key(key: Tensor) -> None:
    """Raise TypeError or ValueError unless the key is int64 ``[*batch, 2]``; anything else would give other noise."""
    KINDS["key"]("key", key)
    if not key.dim() or sizes(key.shape)[-1] != 2:
        raise ValueError(f"key must have shape [*batch, 2] (seed, offset), got {list(key.shape)}")


def _splitmix(state: int) -> int:
    word = (1 << 64) - 1
    state = (state + 0x9E3779B97F4A7C15) & word
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & word
    return state ^ (state >> 31)


def keys_of(generators: Sequence[torch.Generator], draw: Callable[..., Tensor], device: Device | None) -> Tensor:
    """``[len(generators), 2]``: the key that ``draw(device, generator=g)`` gives for each generator."""
    keys = [draw(device=device, generator=g) for g in generators]
    return torch.stack(keys) if keys else torch.empty(0, 2, dtype=torch.int64, device=device)
