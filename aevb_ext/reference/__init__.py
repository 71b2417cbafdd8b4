"""Every public function as the plain PyTorch formula.

Tests compare the public functions with these definitions, in float64. Names, signatures and results are those of
:mod:`aevb_ext.functional`, where they are documented. Where there are no compiled kernels, the public functions compute
these formulas in a form that keeps their digits in float32 as well.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .._types import Device, Generators
from ..noise import keys_of, standard_normal, words
from ._common import _logvar, _reduce, _scaled, _wide
from .continuous import (
    continuous_bernoulli_log_prob,
    discretized_logistic_log_prob,
    laplace_log_prob,
    student_t_log_prob,
)
from .counts import (
    negative_binomial_log_prob,
    poisson_log_prob,
    zero_inflated_negative_binomial_log_prob,
)
from .mixture import mixture_log_prob
from .positions import categorical_log_prob, discretized_logistic_mixture_log_prob

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "binarize",
    "categorical_log_prob",
    "continuous_bernoulli_log_prob",
    "discretized_logistic_log_prob",
    "discretized_logistic_mixture_log_prob",
    "gaussian_kl",
    "gaussian_log_prob",
    "laplace_log_prob",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "mixture_log_prob",
    "negative_binomial_log_prob",
    "noise_key",
    "poisson_log_prob",
    "rsample",
    "rsample_kl",
    "student_t_log_prob",
    "unpack_bits",
    "zero_inflated_negative_binomial_log_prob",
]


def noise_key(device: Device | None = None, generator: Generators | None = None) -> Tensor:
    if isinstance(generator, (list, tuple)):
        return keys_of(generator, noise_key, device)
    if device is None:
        device = generator.device if generator is not None else torch.get_default_device()
    seed = torch.empty(1, dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)  # all 64 bits
    return torch.cat([seed, torch.zeros_like(seed)])


def rsample(
    mu: Tensor,
    logvar: Tensor,
    *,
    n_samples: int | None = None,
    first_sample: int = 0,
    key: Tensor | None = None,
    generator: Generators | None = None,
    spread: str = "logvar",
) -> Tensor:
    if key is None:
        key = noise_key(mu.device, generator)
    mu32, logvar32 = _wide(mu), _logvar(_wide(logvar), spread)
    keys = key.dim() - 1  # leading dimensions that have a key for each data point
    samples = () if n_samples is None else (n_samples,)
    of_one = mu.shape[keys:]
    eps = standard_normal(key, (*samples, *of_one), mu32.dtype, start=first_sample * math.prod(of_one))
    if samples:
        eps = eps.movedim(keys, 0)
    z: Tensor = (mu32 + (0.5 * logvar32).exp() * eps).to(mu.dtype)
    return z


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    spread: str = "logvar",
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    event_dims = mu.dim() - batch_dims
    mu, v = _wide(mu), _logvar(_wide(logvar), spread)
    if prior_mu is not None:
        mu = mu - _wide(prior_mu)
    precision: Tensor | float = 1.0
    if prior_logvar is not None:
        prior_v = _logvar(_wide(prior_logvar), spread)
        v, precision = v - prior_v, (-prior_v).exp()
    return _reduce(0.5 * (torch.expm1(v) - v + mu.square() * precision), event_dims, reduction)


def rsample_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    n_samples: int | None = None,
    first_sample: int = 0,
    key: Tensor | None = None,
    generator: Generators | None = None,
    spread: str = "logvar",
    reduction: str = "sample",
    batch_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    z = rsample(mu, logvar, n_samples=n_samples, first_sample=first_sample, key=key, generator=generator, spread=spread)
    return z, gaussian_kl(mu, logvar, spread=spread, reduction=reduction, batch_dims=batch_dims)


def bernoulli_log_prob(
    x: Tensor, logits: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    event_dims = x.dim() - batch_dims
    x, logits = _scaled(x, logits, x_scale)
    return _reduce(x * logits + F.logsigmoid(-logits), event_dims, reduction)


def bernoulli_log_prob_of_probs(
    x: Tensor, probs: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    event_dims = x.dim() - batch_dims
    probs = _wide(probs)
    x = (x.to(probs.dtype) * x_scale).expand_as(probs)
    outside = (probs < 0) | (probs > 1) | probs.isnan()
    with torch.autocast(probs.device.type, enabled=False):  # PyTorch refuses this function under autocast on CUDA
        losses = F.binary_cross_entropy(probs.masked_fill(outside, 0.5), x, reduction="none")
    return _reduce(-losses.masked_fill(outside, math.nan), event_dims, reduction)


def gaussian_log_prob(
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    spread: str = "logvar",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    event_dims = x.dim() - batch_dims
    (x, mu), v = _scaled(x, mu, x_scale), _logvar(_wide(logvar), spread)
    return _reduce(-0.5 * (math.log(2 * math.pi) + v + (x - mu).square() * (-v).exp()), event_dims, reduction)


def binarize(
    x: Tensor, key: Tensor | None = None, *, generator: Generators | None = None, x_scale: float = 1.0
) -> Tensor:
    if key is None:
        key = noise_key(x.device, generator)
    shape = x.shape[key.dim() - 1 :]
    # Beyond these limits every bit is 0 or every bit is 1; the comparison of integers is exact.
    most = (_wide(x) * (x_scale * 2.0**32)).ceil().clamp(0, 2.0**32).nan_to_num(0).long()
    return words(key, math.prod(shape)).reshape(x.shape).less(most).to(torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return packed.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and(1).flatten(-2)[..., :n]


def linear_bernoulli_log_prob(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    logits = F.linear(h, weight, bias)
    return bernoulli_log_prob(x, logits, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)


def linear_gaussian_log_prob(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    sigmoid: bool = False,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    mean = F.linear(h, weight, bias)
    if logvar is None:
        mean, logvar = mean.chunk(2, -1)
    mean = _wide(mean).sigmoid() if sigmoid else mean
    return gaussian_log_prob(x, mean, logvar, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)
