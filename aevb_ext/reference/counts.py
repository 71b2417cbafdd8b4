"""The log-likelihoods of counts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import _reduce, _scaled, _wide


def poisson_log_prob(
    x: Tensor,
    log_rate: Tensor | None = None,
    *,
    rate: Tensor | None = None,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    if rate is None:
        assert log_rate is not None
        x, log_rate = _scaled(x, log_rate, x_scale)
        expected, rate = x * torch.where((x == 0) & log_rate.isinf(), 0, log_rate), log_rate.exp()
    else:
        x, rate = _scaled(x, rate, x_scale)
        expected = _times_log(x, rate)
    return _reduce(expected - rate - torch.lgamma(x + 1), event_dims, reduction)


def negative_binomial_log_prob(
    x: Tensor,
    mean: Tensor | None = None,
    dispersion: Tensor | None = None,
    *,
    total_count: Tensor | None = None,
    logits: Tensor | None = None,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    if mean is not None:
        assert dispersion is not None
        x, mean = _scaled(x, mean, x_scale)
        return _reduce(_negative_binomial(x, mean, _wide(dispersion)), event_dims, reduction)
    assert total_count is not None and logits is not None
    x, logits = _scaled(x, logits, x_scale)
    total_count = _wide(total_count)
    of_counts = torch.lgamma(x + total_count) - torch.lgamma(total_count) - torch.lgamma(x + 1)
    values = of_counts + total_count * F.logsigmoid(-logits) + x * F.logsigmoid(logits)
    return _reduce(values, event_dims, reduction)


def zero_inflated_negative_binomial_log_prob(
    x: Tensor,
    mean: Tensor,
    dispersion: Tensor,
    gate_logits: Tensor,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    x, mean = _scaled(x, mean, x_scale)
    gate, theta = _wide(gate_logits), _wide(dispersion)
    counted = _negative_binomial(x, mean, theta)
    of_zero = F.softplus(-theta * torch.log1p(mean / theta) - gate) - F.softplus(-gate)
    return _reduce(torch.where(x == 0, of_zero, counted - F.softplus(gate)), event_dims, reduction)


def _negative_binomial(x: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    of_counts = torch.lgamma(x + dispersion) - torch.lgamma(dispersion) - torch.lgamma(x + 1)
    share = torch.log1p(mean / dispersion)  # of dispersion in the sum of both: its negative logarithm
    of_mean = _times_log(x, mean) - x * (dispersion.log() + share)
    return of_counts + of_mean - dispersion * share


def _times_log(x: Tensor, rate: Tensor) -> Tensor:
    """x log rate, and 0 where both are 0."""
    return x * torch.where((x == 0) & (rate == 0), 1, rate).log()
