"""The SGVB estimators of the variational lower bound (section 2.3), and the bound of a data set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Rows, prefetch, rows_of
from ..models import VAE
from ..noise import keys_at
from .terms import ESTIMATORS, ROWS, terms_a, terms_b

__all__ = ["Bound", "bound_a", "bound_b", "bound_values", "evaluate_bound"]


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
    the same noise. Memory grows neither with the data points nor with the samples of each.

    Args:
        model: the VAE.
        x: ``[N, *event]``, ``N >= 1``, on the model's device; or :class:`~aevb_ext.data.Rows`.
        estimator: ``"a"`` (eq. 6), ``"b"`` (eq. 7) or ``"iwae"``: the importance-weighted bound (Burda et al. 2016,
            arXiv 1509.00519, eq. 8), which with many samples approaches the log-likelihood from below.
        n_samples: L or k, samples a data point.
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
    parts = torch.arange(first, last, device=rows.device).split(max(1, ROWS // n_samples))
    batches = ((index, keys_at(seed, "evaluation binarize", index)) for index in parts)
    for index, batch in zip(parts, prefetch(rows, batches, device), strict=True):
        key = keys_at(seed, "evaluation", index).to(device)
        values.append(ESTIMATORS[estimator](model, batch, n_samples, block=ROWS, key=key).bound)
    return torch.cat(values).double()
