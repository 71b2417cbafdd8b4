"""The SGVB estimators of the variational lower bound (section 2.3), and the bound of a data set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import functional as F
from ..data import Rows, rows_of
from ..models import VAE
from ..nn import ELBOTerms
from ..noise import keys_at

__all__ = ["ESTIMATORS", "Bound", "bound_a", "bound_b", "bound_values", "evaluate_bound"]

# Rows of the decoder's output that an evaluation makes at a time: enough to keep every core busy, few enough to stay in
# the cache.
_ROWS = 1000


def terms_a(model: VAE, x: Tensor, n_samples: int = 1, *, key=None, generator=None) -> ELBOTerms:
    """What :func:`bound_a` is made of; ``kl`` is the mean over samples of log q(z | x) - log p(z)."""
    mu, logvar = model.posterior(x)
    z = F.rsample(mu, logvar, n_samples=n_samples, key=key, generator=generator)
    zero = z.new_zeros(())
    log_q = F.gaussian_log_prob(z, mu.expand_as(z), logvar, batch_dims=z.dim() - 1)
    log_prior = F.gaussian_log_prob(z, zero.expand_as(z), zero, batch_dims=z.dim() - 1)
    reconstruction, kl = model.log_likelihood(x, z).mean(0), (log_q - log_prior).mean(0)
    return ELBOTerms(reconstruction - kl, reconstruction, kl)


def terms_b(model: VAE, x: Tensor, n_samples: int = 1, *, key=None, generator=None) -> ELBOTerms:
    """What :func:`bound_b` is made of; ``kl`` is the divergence in closed form."""
    mu, logvar = model.posterior(x)
    # Without a dimension of samples there is no mean to take over it.
    z, kl = F.rsample_kl(mu, logvar, n_samples=None if n_samples == 1 else n_samples, key=key, generator=generator)
    reconstruction = model.log_likelihood(x, z)
    if n_samples > 1:
        reconstruction = reconstruction.mean(0)
    return ELBOTerms(reconstruction - kl, reconstruction, kl)


def bound_a(model: VAE, x: Tensor, n_samples: int = 1, generator=None, *, key: Tensor | None = None) -> Tensor:
    r"""Estimator A (eq. 6) of each data point's bound.

    .. math:: \frac1L \sum_l \log p(x, z_l) - \log q(z_l | x), \quad z_l \sim q(z | x) \text{ reparameterised}

    Args:
        model: the VAE.
        x: ``[B, *event]``.
        n_samples: L.
        generator, key: where the noise comes from, as in :func:`aevb_ext.rsample`.

    Returns:
        ``[B]``, in nats, differentiable in the model's parameters.
    """
    return terms_a(model, x, n_samples, key=key, generator=generator).bound


def bound_b(model: VAE, x: Tensor, n_samples: int = 1, generator=None, *, key: Tensor | None = None) -> Tensor:
    r"""Estimator B (eq. 7): as :func:`bound_a`, with the Kullback-Leibler divergence in closed form (lower variance).

    .. math:: -D_{KL}(q(z | x) \| p(z)) + \frac1L \sum_l \log p(x | z_l)
    """
    return terms_b(model, x, n_samples, key=key, generator=generator).bound


ESTIMATORS = {"a": terms_a, "b": terms_b}


@dataclass(frozen=True)
class Bound:
    """The mean over data points of the bound, in nats, and the standard error of that mean."""

    mean: float
    stderr: float
    count: int

    @classmethod
    def of(cls, values: Tensor) -> "Bound":
        """Of each data point's bound, ``[N]``."""
        # One data point says nothing about its own spread.
        stderr = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return cls(values.mean().item(), stderr, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.stderr:.2f}"


@torch.no_grad()
def evaluate_bound(
    model: VAE, x: Tensor | Rows, *, estimator: str = "b", n_samples: int = 1, seed: int = 0, count: int | None = None
) -> Bound:
    """The mean bound of a data set, in nats per data point.

    The noise of a data point depends on ``seed`` and its number alone: models scored with the same seed are compared on
    the same noise.

    Args:
        model: the VAE.
        x: ``[N, *event]``, ``N >= 1``, on the model's device; or :class:`~aevb_ext.data.Rows`.
        estimator: ``"a"`` (eq. 6) or ``"b"`` (eq. 7).
        n_samples: L, samples a data point.
        seed: of the noise.
        count: of how many first data points. None: of all.

    Raises:
        ValueError: an unknown estimator, ``n_samples < 1`` or no data.
    """
    return Bound.of(bound_values(model, x, estimator=estimator, n_samples=n_samples, seed=seed, count=count))


@torch.no_grad()
def bound_values(
    model: VAE,
    x: Tensor | Rows,
    *,
    estimator: str = "b",
    n_samples: int = 1,
    seed: int = 0,
    first: int = 0,
    count: int | None = None,
) -> Tensor:
    """What :func:`evaluate_bound` averages, of the data points from number ``first`` on: float64 ``[count]``."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    rows = rows_of(x)
    device = next((p.device for p in model.parameters()), rows.device)
    last = len(rows) if count is None else min(len(rows), first + count)
    if last <= first:
        raise ValueError(f"x must have at least one data point, got {len(rows)}")
    values = []
    for index in torch.arange(first, last, device=rows.device).split(max(1, _ROWS // n_samples)):
        batch = rows.gather(index, keys_at(seed, "evaluation binarize", index)).to(device)
        key = keys_at(seed, "evaluation", index).to(device)
        values.append(ESTIMATORS[estimator](model, batch, n_samples, key=key).bound)
    return torch.cat(values).double()
