"""An elementwise formula in float64: its values, its gradients, and how far rounding may carry either.

A formula f of operands x_i, whose every step is rounded to a relative error of eps, is off by a few
eps (|f| + sum_i |x_i df/dx_i|): as far as if its operands were off by so much, and its result. So is each of its
derivatives, by its own derivatives, which autograd knows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

# Steps of a formula that are rounded.
STEPS = 32
# The formulas here are in float64, where what cancels costs their operands' own rounding errors.
OWN_EPS = 8 * torch.finfo(torch.float64).eps


@dataclass
class Bounded:
    """What a tensor should be, and how far it may be from that."""

    value: torch.Tensor
    error: torch.Tensor

    def reduced(self, reduce: Callable) -> "Bounded":
        return Bounded(reduce(self.value), reduce(self.error))

    def times(self, factor: torch.Tensor) -> "Bounded":
        """By the chain rule. Where nobody asks for an element its gradient is 0, and that of a NaN anything."""
        value = torch.where(factor == 0, 0.0, factor * self.value)
        error = torch.where(factor == 0, torch.where(self.value.isnan(), torch.inf, 0.0), factor.abs() * self.error)
        return Bounded(value, error)

    def plus(self, other: "Bounded") -> "Bounded":
        return Bounded(self.value + other.value, self.error + other.error)


@dataclass
class Elementwise:
    """A formula's values, its gradient by each operand, and the derivatives of those by each operand (not bounded)."""

    value: Bounded
    gradients: dict[str, Bounded]
    second: dict[str, dict[str, torch.Tensor]]


def elementwise(
    formula: Callable, operands: dict[str, torch.Tensor], eps: float, sizes: dict[str, torch.Tensor] | None = None
) -> Elementwise:
    """All of it, each tensor of the operands' shape.

    Args:
        formula: takes the operands by name, float64 and of one shape; gives a tensor of that shape.
        operands: float64.
        eps: of the arithmetic that is looked at.
        sizes: of an operand that has itself been computed: what eps is a relative error of. Default: its magnitude.
    """
    leaves = {name: t.clone().requires_grad_() for name, t in operands.items()}
    sizes = {name: t.abs() for name, t in operands.items()} | (sizes or {})
    value = formula(**leaves)
    gradients = _gradients(value, leaves, create_graph=True)
    second = {name: _gradients(g, leaves) for name, g in gradients.items()}
    bounded = {name: _bounded(g, second[name], sizes, eps) for name, g in gradients.items()}
    return Elementwise(_bounded(value, gradients, sizes, eps), bounded, second)


def _gradients(result, leaves, create_graph=False) -> dict[str, torch.Tensor]:
    if not result.requires_grad:
        return {name: torch.zeros_like(t) for name, t in leaves.items()}
    found = torch.autograd.grad(
        result.sum(),
        list(leaves.values()),
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(leaves, found, strict=True))


def _bounded(result, derivatives, sizes, eps) -> Bounded:
    value = result.detach()
    moved = sum(sizes[name] * d.detach().abs() for name, d in derivatives.items())
    own = 1 + value.abs() + sum(sizes.values()) + moved
    return Bounded(value, STEPS * eps * (value.abs() + moved) + OWN_EPS * own)


def fault(found: torch.Tensor, exact: Bounded, dtype: torch.dtype, is_gradient: bool = False) -> str:
    """What is wrong with a result, or nothing.

    Args:
        found: the result.
        exact: before it is rounded to its dtype.
        dtype: what the result should be of.
        is_gradient: one that is beyond its dtype's largest number is that number, and not infinity.
    """
    if found.dtype != dtype or found.shape != exact.value.shape:
        return f"{found.dtype} {list(found.shape)} where {dtype} {list(exact.value.shape)} is expected"
    if not dtype.is_floating_point:
        off = found != exact.value
        return _worst("off", off, found, exact.value) if off.any() else ""
    info = torch.finfo(dtype)
    value, error = exact.value, exact.error
    if is_gradient and info.bits == 16:
        value = value.clamp(-info.max, info.max)
    found = found.detach().double()
    error = error + info.eps / 2 * value.abs() + info.tiny
    nan = value.isnan()
    # Where the arithmetic's own numbers end, a result may be infinite or not; so may a derivative, which its cotangent
    # would make small again.
    if is_gradient:
        unknown = exact.value.abs() + exact.error > torch.finfo(torch.float32).max / 1e6
    else:
        unknown = value.abs() + error > min(info.max, torch.finfo(torch.float32).max) / 8
    unknown |= ~error.isfinite()
    # Infinities of both signs, of which it is a sum, are NaN: their sizes are what the error is a small part of.
    summed = error < torch.finfo(torch.float32).max * 1e-7
    if (found.isnan() & ~nan & summed).any():
        return _worst("NaN", found.isnan() & ~nan & summed, found, value)
    # The chain rule's 0 stays 0.
    absent = nan & ~found.isnan() & ~(is_gradient & (found == 0))
    if absent.any():
        return _worst("no NaN", absent, found, value)
    off = ~unknown & ~nan & ~((found - value).abs() <= error)
    return _worst("off", off, found, value, error) if off.any() else ""


def _worst(what, where, found, value, error=None) -> str:
    i = int(where.flatten().int().argmax())
    numbers = f"{found.flatten()[i]:.9g} for {value.flatten()[i]:.9g}"
    at = f"{what} in {int(where.sum())} of {where.numel()}, at {i}: {numbers}"
    return at if error is None else f"{at} +- {error.flatten()[i]:.3g}"
