"""The SGVB estimators of the variational lower bound (section 2.3), and the bound of a data set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import functional as F
from ..models import VAE

__all__ = ["ESTIMATORS", "Bound", "bound_a", "bound_b", "evaluate_bound"]

# Rows of the decoder's output that an evaluation makes at a time: enough to keep every core busy, few enough to stay in
# the cache.
_ROWS = 1000


def bound_a(model: VAE, x: Tensor, n_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
    r"""Estimator A (eq. 6) of each data point's bound.

    .. math:: \frac1L \sum_l \log p(x, z_l) - \log q(z_l | x), \quad z_l \sim q(z | x) \text{ reparameterised}

    Args:
        model: the VAE.
        x: ``[B, *event]``.
        n_samples: L.
        generator: where the noise comes from, on x's device. Default: PyTorch's.

    Returns:
        ``[B]``, in nats, differentiable in the model's parameters.
    """
    mu, logvar = model.posterior(x)
    z = F.rsample(mu, logvar, n_samples=n_samples, generator=generator)
    zero = z.new_zeros(())
    log_q = F.gaussian_log_prob(z, mu.expand_as(z), logvar, batch_dims=z.dim() - 1)
    log_prior = F.gaussian_log_prob(z, zero.expand_as(z), zero, batch_dims=z.dim() - 1)
    return (model.log_likelihood(x, z) + log_prior - log_q).mean(0)


def bound_b(model: VAE, x: Tensor, n_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
    r"""Estimator B (eq. 7): as :func:`bound_a`, with the Kullback-Leibler divergence in closed form (lower variance).

    .. math:: -D_{KL}(q(z | x) \| p(z)) + \frac1L \sum_l \log p(x | z_l)
    """
    mu, logvar = model.posterior(x)
    if n_samples == 1:
        # Without a dimension of samples there is no mean to take over it.
        z, kl = F.rsample_kl(mu, logvar, generator=generator)
        return model.log_likelihood(x, z) - kl
    z, kl = F.rsample_kl(mu, logvar, n_samples=n_samples, generator=generator)
    return model.log_likelihood(x, z).mean(0) - kl


ESTIMATORS = {"a": bound_a, "b": bound_b}


@dataclass(frozen=True)
class Bound:
    """The mean over data points of the bound, in nats, and the standard error of that mean."""

    mean: float
    stderr: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.stderr:.2f}"


@torch.no_grad()
def evaluate_bound(model: VAE, x: Tensor, *, estimator: str = "b", n_samples: int = 1, seed: int = 0) -> Bound:
    """The mean bound of a data set, in nats per data point.

    The noise depends on ``seed`` alone: models scored with the same seed are compared on the same noise.

    Args:
        model: the VAE.
        x: ``[N, *event]``, ``N >= 1``, on the model's device.
        estimator: ``"a"`` (eq. 6) or ``"b"`` (eq. 7).
        n_samples: L, samples a data point.
        seed: of the noise.

    Raises:
        ValueError: an unknown estimator, ``n_samples < 1`` or no data.
    """
    bound = check_estimator(estimator, n_samples)
    if len(x) == 0:
        raise ValueError("x must have at least one data point, got none")
    generator = torch.Generator(x.device).manual_seed(seed)
    chunks = x.split(max(1, _ROWS // n_samples))
    values = torch.cat([bound(model, chunk, n_samples, generator) for chunk in chunks]).double()
    # One data point says nothing about its own spread.
    stderr = values.std().item() / len(x) ** 0.5 if len(x) > 1 else float("nan")
    return Bound(values.mean().item(), stderr, len(x))


def check_estimator(estimator: str, n_samples: int):
    """The function of that name; ValueError where the name or the number of samples does not exist."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    return ESTIMATORS[estimator]
