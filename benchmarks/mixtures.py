"""Mixtures of Gaussians against the formula as their users write it: a prior of many components, and beta-TCVAE's total
correlation. Lines of benchmarks/likelihoods.py.
"""

import math

import torch
from torch import Tensor

import aevb_ext

from .cases import Operation, Shape

LOG_2PI = math.log(2 * math.pi)
COMPONENTS = 500  # the VampPrior's


def _reduce(values: Tensor, reduction: str) -> Tensor:
    return {"mean": torch.mean, "sum": torch.sum, "sample": lambda t: t}[reduction](values)


def _exponents(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * ((z.unsqueeze(1) - mu).square() / logvar.exp() + logvar + LOG_2PI)


def prior_textbook(z, mu_k, logvar_k, logits_k, reduction):
    """As the VampPrior's authors have it, with weights."""
    exponents = _exponents(z, mu_k, logvar_k).sum(2) + torch.log_softmax(logits_k, 0)
    return _reduce(-torch.logsumexp(exponents, 1), reduction)


def prior_distributions(z, mu_k, logvar_k, logits_k, reduction):
    components = torch.distributions.Independent(torch.distributions.Normal(mu_k, (0.5 * logvar_k).exp()), 1)
    weights = torch.distributions.Categorical(logits=logits_k)
    mixture = torch.distributions.MixtureSameFamily(weights, components, validate_args=False)
    return _reduce(-mixture.log_prob(z), reduction)


def prior(z, mu_k, logvar_k, logits_k, reduction):
    return -aevb_ext.mixture_log_prob(z, mu_k, logvar_k, logits_k, reduction=reduction)


def total_correlation_textbook(z, mu, logvar, reduction):
    """As beta-TCVAE's authors have it, by minibatch weighted sampling."""
    exponents, log_batch = _exponents(z, mu, logvar), math.log(len(z))
    joint = exponents.sum(2).logsumexp(1) - log_batch
    return _reduce(joint - (exponents.logsumexp(1) - log_batch).sum(1), reduction)


def total_correlation(z, mu, logvar, reduction):
    marginals = aevb_ext.mixture_log_prob(z, mu, logvar, factorised=True, reduction=reduction)
    return aevb_ext.mixture_log_prob(z, mu, logvar, reduction=reduction) - marginals


def _learnt(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def _spread(*shape: int) -> Tensor:
    return (0.3 * torch.randn(shape) - 1).requires_grad_()


def _floor(n: dict[str, int], again: int) -> tuple[int, int]:
    """All operands are read, and their gradients written."""
    read = sum(size for name, size in n.items() if name not in ("full", "value"))
    return read, again * read + read


def _prior_inputs(s: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    k, d = COMPONENTS, s.event
    return {"z": _learnt(s.batch, d), "mu_k": _learnt(k, d), "logvar_k": _spread(k, d), "logits_k": _learnt(k)}


def _posterior_inputs(s: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"z": _learnt(*s.full), "mu": _learnt(*s.full), "logvar": _spread(*s.full)}


PRIOR = Operation(
    f"mixture of {COMPONENTS}",
    "mixture_log_prob",
    _prior_inputs,
    prior,
    {"textbook": prior_textbook, "distributions": prior_distributions},
    _floor,
)
TOTAL_CORRELATION = Operation(
    "total correlation",
    "mixture_log_prob",
    _posterior_inputs,
    total_correlation,
    {"textbook": total_correlation_textbook},
    _floor,
)
