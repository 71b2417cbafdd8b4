"""The log density of Gaussian mixtures in plain PyTorch, some rows at a time: forward and backward hold no tensor of
rows x components x dimensions (formulas as in csrc/formulas/mixture.h).
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._arguments import sizes
from ._formulas import _product

# Of rows x components x dimensions, at a time.
_NUMBERS = 1 << 20


def log_density(z: Tensor, mu: Tensor, v: Tensor, log_weight: Tensor, factorised: bool) -> Tensor:
    """Of rows z [N, D] under components mu, v = log sigma^2 [K, D]: [N, 1], or [N, D] of each dimension's own mixture.

    Args:
        log_weight: log pi_k, [K].
    """
    log_norm = -0.5 * (v + math.log(2 * math.pi))
    if not factorised:
        log_norm = log_norm.sum(1, keepdim=True)
    c = log_weight.unsqueeze(1) + log_norm
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return _exponents(z, mu, v, c)[1].logsumexp(1)
    density: Tensor = _LogDensity.apply(z, mu, v, c)
    return density


def _exponents(z: Tensor, mu: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(z - mu) / sigma, and the logarithms of the terms that are summed over the components."""
    t = _product(z.unsqueeze(1) - mu, (-0.5 * v).exp())
    squares, is_joint = t.square(), sizes(c.shape)[1] == 1  # not of each dimension
    return t, c - 0.5 * (squares.sum(2, keepdim=True) if is_joint else squares)


def _some(z: Tensor, mu: Tensor) -> int:
    return max(_NUMBERS // max(mu.numel(), 1), 1)


class _LogDensity(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, mu: Tensor, v: Tensor, c: Tensor) -> Tensor:
        return torch.cat([_exponents(rows, mu, v, c)[1].logsumexp(1) for rows in z.split(_some(z, mu))])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        z, mu, v, c = ctx.saved_tensors
        of_z = []
        of_mu, of_v, of_c = torch.zeros_like(mu), torch.zeros_like(v), torch.zeros_like(c)
        inverse_std, some = (-0.5 * v).exp(), _some(z, mu)
        for rows, cotangent in zip(z.split(some), cotangents[0].split(some), strict=True):
            t, a = _exponents(rows, mu, v, c)
            density = a.logsumexp(1, keepdim=True)
            # Where the density is 0 or infinite, nothing has a gradient.
            w = cotangent.unsqueeze(1) * (a - density).exp().masked_fill(density.isinf(), 0)
            t = t.masked_fill(w == 0, 0)  # which may be infinite there
            of_mean = _product(w * t, inverse_std)
            of_z.append(-of_mean.sum(1))
            of_mu = of_mu + of_mean.sum(0)
            of_v = of_v + 0.5 * (w * t * t).sum(0)
            of_c = of_c + w.sum(0)
        return torch.cat(of_z), of_mu, of_v, of_c
