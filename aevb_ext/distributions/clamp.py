"""Bounds on the spread that an encoder gives."""

import math

import torch
from torch import Tensor


def clamp(values: Tensor, bounds: tuple[float, float], soft: bool) -> Tensor:
    r"""``values`` within ``bounds``, ``(low, high)``.

    Hard: ``torch.clamp``, whose gradient is 0 outside: what has left the bounds stays outside.

    Soft: a smooth maximum of a smooth minimum,

    .. math:: \log\left(e^{low} + \frac{1}{e^{-v} + e^{-h}}\right), \quad h = high + \log(1 - e^{low - high})

    that rises from ``low`` to ``high`` (h is where the smooth maximum ends at ``high``). It is v itself but for
    :math:`e^{low - v}` and :math:`e^{v - high}` (2e-9 at v = 0 between -30 and 20), and its gradient falls off
    outside as :math:`e^{-d}` with the distance d to the bound, where the hard one's is 0.

    Raises:
        ValueError: ``bounds`` are not two numbers in rising order.
    """
    low, high = check_clamp("clamp", bounds)
    if not soft:
        return values.clamp(low, high)
    smooth_high = high + math.log(-math.expm1(low - high))
    below = -torch.logaddexp(-values, torch.full_like(values, -smooth_high))
    return torch.logaddexp(below, torch.full_like(values, low))


def check_clamp(name: str, bounds) -> tuple[float, float]:
    """The bounds, if they are two numbers in rising order."""
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers (low, high), got {bounds!r}") from None
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high
