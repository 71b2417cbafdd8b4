"""Mixtures of diagonal Gaussians."""

import math

import torch
from torch import Tensor

from ._common import _logvar, _reduce, _wide


def mixture_log_prob(
    z: Tensor,
    mu_k: Tensor,
    logvar_k: Tensor,
    logits_k: Tensor | None = None,
    *,
    spread: str = "logvar",
    factorised: bool = False,
    reduction: str = "sample",
) -> Tensor:
    mu, v = _wide(mu_k), _logvar(_wide(logvar_k), spread)
    log_weight = torch.log_softmax(mu.new_zeros(len(mu)) if logits_k is None else _wide(logits_k), 0).unsqueeze(-1)
    of_elements = -0.5 * ((_wide(z).unsqueeze(-2) - mu).square() * (-v).exp() + v + math.log(2 * math.pi))
    if factorised:
        return _reduce((log_weight + of_elements).logsumexp(-2), 1, reduction)
    if reduction == "none":
        raise ValueError('reduction must be "sample", "sum" or "mean", or factorised=True, got "none"')
    return _reduce((log_weight.squeeze(-1) + of_elements.sum(-1)).logsumexp(-1), 0, reduction)
