"""Random calls of the functions of bits, which have one right answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from noise_definition import words
from torch import Tensor

import aevb_ext

from .calls import Call, Result, wide
from .drawing import DTYPES, Draw
from .exact import Bounded


@dataclass(frozen=True)
class BitsCall(Call):
    """`expected` takes the tensors and gives the bits."""

    expected: Callable = None

    def values(self) -> list[Bounded]:
        bits = self.expected(**self.tensors)
        return [Bounded(bits, torch.zeros(bits.shape))]


def unpack_bits(draw: Draw) -> Call:
    n = draw.one_of((0, 1, 7, 8, 9, 63, 784))
    shape = (*draw.sizes(0, 2), -(-n // 8))
    packed = torch.randint(256, shape, generator=draw.generator, dtype=torch.uint8)

    def expected(packed: Tensor) -> Tensor:
        return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=n))

    result = (Result((), torch.uint8),)
    call = lambda packed: aevb_ext.unpack_bits(packed, n)  # noqa: E731
    return BitsCall("unpack_bits", call, {"packed": packed}, result, torch.float32, {"n": n}, expected)


def binarize(draw: Draw) -> Call:
    _, batch, event = draw.shapes()
    dtype = draw.one_of((*DTYPES, torch.uint8))
    scale = 1 / 255 if dtype == torch.uint8 else draw.one_of((1.0, 0.75))
    x = draw.unit(batch + event)
    x = (255 * x).round().to(dtype) if dtype == torch.uint8 else draw.as_dtype(x, dtype)
    keys_of = batch[: draw.choice.randint(0, len(batch))]
    key = draw.key(keys_of)

    def expected(x: Tensor) -> Tensor:
        arithmetic = np.float64 if wide(x.dtype) == torch.float64 else np.float32
        probability = x.double().numpy().astype(arithmetic) * arithmetic(scale * 2.0**32)
        of_one = math.prod(x.shape[len(keys_of) :])
        drawn = [np.stack(words(k.tolist(), (of_one + 1) // 2), -1).ravel()[:of_one] for k in key.reshape(-1, 2)]
        drawn = np.concatenate([np.empty(0), *drawn]).reshape(x.shape)
        return torch.from_numpy(np.asarray(drawn < probability, np.uint8))

    call = lambda x: aevb_ext.binarize(x, key, x_scale=scale)  # noqa: E731
    about = {"key": key, "x_scale": scale}
    return BitsCall("binarize", call, {"x": draw.lie(x)}, (Result((), torch.uint8),), wide(dtype), about, expected)


BUILDERS = (unpack_bits, binarize)
