"""Tensors in a wider dtype, whose gradients are clamped to the range of the narrower one.

A gradient beyond the largest number of a half-precision dtype becomes that number. ``Tensor.to`` would make it
infinite, and infinity times zero is NaN in the next layer.
"""

import functools

import torch
from torch import Tensor

from ._library import is_loaded, ops

__all__ = ["narrowed", "promoted", "wide", "widened"]


def wide(t: Tensor) -> torch.dtype:
    """The dtype of the arithmetic with a floating tensor: float64 for float64, else float32."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def widened(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t.to(dtype)`` for a wider dtype. Its gradient is clamped to the range of ``t``'s dtype."""
    if t.dtype == dtype:
        return t
    wider: Tensor = ops.widened(t, dtype) if is_loaded() else _widened(t, dtype)
    return wider


def promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype, by PyTorch's promotion rules; gradients as of :func:`widened`."""
    dtype = tensors[0].dtype
    if all(t.dtype == dtype for t in tensors):
        return tensors
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return tuple(widened(t, dtype) if t.is_floating_point() else t.to(dtype) for t in tensors)


def narrowed(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient in ``dtype``. A finite number beyond its range becomes its largest; infinity and NaN stay."""
    if torch.promote_types(gradient.dtype, dtype) == dtype:
        return gradient.to(dtype)
    largest = torch.finfo(dtype).max
    return torch.where(gradient.isinf(), gradient, gradient.clamp(-largest, largest)).to(dtype)


def _widened(t: Tensor, dtype: torch.dtype) -> Tensor:
    # A traced graph has PyTorch's own operators alone, so that it can be saved.
    wider: Tensor = t.to(dtype) if torch.jit.is_tracing() else _Widened.apply(t, dtype)
    return wider


class _Widened(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(t, dtype):  # type: ignore[no-untyped-def]  # as torch.autograd.Function has it
        return t.to(dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.own = inputs[0].dtype

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return narrowed(gradient, ctx.own), None
