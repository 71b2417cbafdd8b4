"""The compiled operators' checks of shapes, dtypes, devices and names, for the formulas in plain PyTorch.

They raise what csrc/ops/common/check.cpp raises, in the same words. Whether an argument is of the right kind at all is
checked by :func:`aevb_ext._arguments.explain`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from ._arguments import COUNTS, DATA, check_broadcasts, check_dtype, check_tensor, sizes
from ._dtypes import wide

__all__ = [
    "REDUCTIONS",
    "SPREADS",
    "check_batch_dims",
    "check_components",
    "check_data",
    "check_key",
    "check_layer",
    "check_layer_data",
    "check_layer_spread",
    "check_like",
    "check_name",
    "check_same_device",
    "check_samples",
]

REDUCTIONS = ("none", "sample", "sum", "mean")
SPREADS = ("logvar", "log_std", "std", "var")

# C++'s names of the dtypes, which its messages have.
_CPP = {torch.float64: "Double", torch.float32: "Float", torch.bfloat16: "BFloat16", torch.float16: "Half"}


def _dtype_name(dtype: torch.dtype) -> str:
    return _CPP.get(dtype, str(dtype).removeprefix("torch."))


def check_name(argument: str, given: str, names: Sequence[str]) -> None:
    if given not in names:
        *others, last = (f'"{name}"' for name in names)
        raise ValueError(f'{argument} must be {", ".join(others)} or {last}, got "{given}"')


def check_same_device(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    if t.device != other.device:
        raise ValueError(f"{name} is on {t.device}, but {other_name} is on {other.device}: expected both on one device")


def check_like(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    """Of the device and dtype of ``other``, and broadcasting to its shape."""
    check_dtype(name, t)
    check_same_device(name, t, other_name, other)
    if t.dtype != other.dtype:
        raise TypeError(
            f"{name} is {_dtype_name(t.dtype)}, but {other_name} is {_dtype_name(other.dtype)}: expected one dtype"
        )
    check_broadcasts(name, t.shape, other_name, other.shape)


def check_data(x: Tensor, name: str, full: Tensor, batch_dims: int, counts: bool = False) -> None:
    """Data of a likelihood whose decoder's output ``full`` is called ``name``."""
    check_tensor("x", x, COUNTS if counts else DATA)
    check_same_device("x", x, name, full)
    check_batch_dims(batch_dims, "x", x)
    check_broadcasts("x", x.shape, name, full.shape)


def check_batch_dims(batch_dims: int, name: str, t: Tensor) -> None:
    if not 0 <= batch_dims <= t.dim():
        raise ValueError(
            f"batch_dims must be from 0 to {t.dim()}, the dimensions of {name} (shape {list(t.shape)}), "
            f"got {batch_dims}"
        )


def check_key(key: Tensor, points: Tensor, most: int, name: str = "mu") -> None:
    """A key for all data points, or one for each: then up to ``most`` dimensions have keys."""
    shape, of_points = sizes(key.shape), sizes(points.shape)
    if not shape or shape[-1] != 2 or len(shape) - 1 > most or shape[:-1] != of_points[: len(shape) - 1]:
        raise ValueError(
            f"key must have shape [2] (seed, offset), or [*batch, 2] with up to {most} of the first sizes of {name} "
            f"(shape {list(points.shape)}) as batch; got {list(key.shape)}"
        )
    check_same_device("key", key, name, points)


def check_samples(n_samples: int | None, first_sample: int, of_one: Size) -> None:
    """``of_one`` is the shape of the noise that a key has for one sample."""
    if n_samples is not None and n_samples < 1:
        raise ValueError(f"n_samples must be at least 1 (or None), got {n_samples}")
    if first_sample < 0:
        raise ValueError(f"first_sample must be at least 0, got {first_sample}")
    most = (2**63 - 1) // max(math.prod(sizes(of_one)), 1)
    if first_sample > most - (n_samples or 1):
        raise ValueError(
            f"first_sample must be at most {most - (n_samples or 1)}, so that the numbers of the noise are below 2^63, "
            f"got {first_sample}"
        )


def check_layer(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, same_dtype: bool = True) -> None:
    """A linear layer and its input, which may be of several dtypes under autocast (``same_dtype=False``)."""
    shape = list(sizes(weight.shape))
    if weight.dim() != 2:
        raise ValueError(f"weight must be [out, in], got {shape}")
    if not x.dim() or sizes(x.shape)[-1] != shape[1]:
        raise ValueError(f"{name} must be [*, {shape[1]}], since weight is {shape}; got {list(x.shape)}")
    if bias is not None and list(sizes(bias.shape)) != shape[:1]:
        raise ValueError(f"bias must be [{shape[0]}], since weight is {shape}; got {list(bias.shape)}")
    others = [t.dtype for t in (weight, bias) if t is not None and t.dtype != x.dtype]
    if same_dtype and others:
        raise TypeError(
            f"{name}, weight and bias must be of one dtype, got {_dtype_name(x.dtype)} and {_dtype_name(others[0])}"
        )


def check_layer_data(x: Tensor, batch_dims: int, output: Size) -> None:
    """The data of a linear layer's likelihood, whose output has the shape ``output``."""
    if not 0 <= batch_dims < x.dim():
        raise ValueError(
            f"batch_dims must be from 0 to {x.dim() - 1}, so that x (shape {list(x.shape)}) has the layer's output as "
            f"its event, got {batch_dims}"
        )
    check_broadcasts("x", x.shape, "the layer's output", output)


def check_layer_spread(logvar: Tensor, h: Tensor, features: int, same_dtype: bool = True) -> None:
    """A spread that does not depend on the layer's input h."""
    check_dtype("logvar", logvar)
    check_same_device("logvar", logvar, "h", h)
    if same_dtype and logvar.dtype not in (h.dtype, wide(h)):
        raise TypeError(
            f"logvar is {_dtype_name(logvar.dtype)}, but h is {_dtype_name(h.dtype)}: expected one dtype, or float32 "
            "beside a half"
        )
    if list(sizes(logvar.shape)) not in ([], [1], [features]):
        raise ValueError(
            f"logvar has shape {list(logvar.shape)}: expected one number, or one for each of the {features} outputs of "
            "the layer"
        )


def check_components(z: Tensor, mu: Tensor, spread: Tensor, logits: Tensor | None = None) -> None:
    """The components of a mixture that has the density of z."""
    for name, t in {"mu_k": mu, "logits_k": logits}.items():
        if t is None:
            continue
        check_dtype(name, t)
        check_same_device(name, t, "z", z)
        if t.dtype != z.dtype:
            raise TypeError(f"{name} is {_dtype_name(t.dtype)}, but z is {_dtype_name(z.dtype)}: expected one dtype")
    shape, of_z = list(sizes(mu.shape)), list(sizes(z.shape))
    if len(shape) != 2:
        raise ValueError(f"mu_k must be [K, D], a row for each component, got shape {shape}")
    if not shape[0]:
        raise ValueError(f"mu_k has no component (shape {shape}): expected at least one")
    if not of_z or of_z[-1] != shape[1]:
        raise ValueError(f"z must be [*, {shape[1]}], since mu_k is {shape}; got {of_z}")
    check_like("logvar_k", spread, "mu_k", mu)
    if logits is not None and list(sizes(logits.shape)) != shape[:1]:
        raise ValueError(
            f"logits_k has shape {list(logits.shape)}: expected one for each of the {shape[0]} components of mu_k"
        )
