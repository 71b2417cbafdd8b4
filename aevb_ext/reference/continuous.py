"""The log-likelihoods of locations and scales, and the continuous Bernoulli."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import _reduce, _scaled, _wide


def laplace_log_prob(
    x: Tensor,
    mu: Tensor,
    scale: Tensor,
    *,
    spread: str = "scale",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    (x, mu), b = _scaled(x, mu, x_scale), _scale(scale, spread)
    return _reduce(-(2 * b).log() - (x - mu).abs() / b, event_dims, reduction)


def student_t_log_prob(
    x: Tensor,
    mu: Tensor,
    scale: Tensor,
    df: Tensor,
    *,
    spread: str = "scale",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    (x, mu), s, df = _scaled(x, mu, x_scale), _scale(scale, spread), _wide(df)
    t = (x - mu) / s
    normaliser = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * (df * math.pi).log() - s.log()
    return _reduce(normaliser - (df + 1) / 2 * torch.log1p(t.square() / df), event_dims, reduction)


def continuous_bernoulli_log_prob(
    x: Tensor, logits: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    event_dims = x.dim() - batch_dims
    x, logits = _scaled(x, logits, x_scale)
    # log of (e^l - 1) / l: symmetric around l / 2, and a series where both are 0.
    size = logits.abs()
    near = size < 0.1
    far = torch.where(near, 1.0, size)
    square = torch.where(near, logits, 0.0).square()
    normaliser = torch.where(
        near,
        square / 24 - square**2 / 2880 + square**3 / 181440 - square**4 / 9676800,
        far / 2 + torch.log(-torch.expm1(-far)) - far.log(),
    )
    return _reduce((x - 0.5) * logits - normaliser, event_dims, reduction)


def discretized_logistic_log_prob(
    x: Tensor,
    mu: Tensor,
    log_scale: Tensor,
    *,
    spread: str = "log_scale",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    (x, mu), s = _scaled(x, mu, x_scale), _scale(log_scale, spread)
    x = (x * 255).round() / 255  # the name of a level, whose gradient is 0
    half = 0.5 / 255
    upper, lower = (x - mu + half) / s, (x - mu - half) / s
    # sigmoid(upper) - sigmoid(lower) = sigmoid(upper) sigmoid(-lower) (1 - e^-(upper - lower))
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    between = below + above + torch.log(-torch.expm1(-2 * half / s))
    return _reduce(torch.where(x < half, below, torch.where(x > 1 - half, above, between)), event_dims, reduction)


def _scale(given: Tensor, spread: str) -> Tensor:
    match spread:
        case "scale":
            return _wide(given)
        case "log_scale":
            return _wide(given).exp()
    raise ValueError(f'spread must be "scale" or "log_scale", got "{spread}"')
