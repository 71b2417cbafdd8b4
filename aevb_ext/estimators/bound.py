"""The SGVB estimators of the variational lower bound (section 2.3), and the bound of a dataset."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .._types import Generators
from ..data import Rows
from ..models import VAE
from ..models.bound import bound_values, terms_a, terms_b
from .result import Bound

__all__ = ["bound_a", "bound_b", "evaluate_bound"]


def bound_a(
    model: VAE, x: Tensor, n_samples: int = 1, generator: Generators | None = None, *, key: Tensor | None = None
) -> Tensor:
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


def bound_b(
    model: VAE, x: Tensor, n_samples: int = 1, generator: Generators | None = None, *, key: Tensor | None = None
) -> Tensor:
    r"""Estimator B (eq. 7): like :func:`bound_a`, with the KL divergence in closed form (lower variance).

    .. math:: -D_{KL}(q(z | x) \| p(z)) + \frac1L \sum_l \log p(x | z_l)
    """
    return terms_b(model, x, n_samples, key=key, generator=generator).bound


@torch.no_grad()
def evaluate_bound(
    model: VAE,
    x: Tensor | Rows,
    *,
    estimator: str = "b",
    n_samples: int = 1,
    seed: int = 0,
    count: int | None = None,
    repeats: int = 1,
    skip_non_finite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Bound:
    """The mean bound of a dataset, in nats per data point.

    The noise of a data point depends on ``seed`` and its index alone: models scored with the same seed are compared on
    the same noise. Memory grows neither with the number of data points nor with the samples of each.

    Args:
        model: the VAE.
        x: ``[N, *event]``, ``N >= 1``, on the model's device; or :class:`~aevb_ext.data.Rows`.
        estimator: ``"a"`` (eq. 6), ``"b"`` (eq. 7) or ``"iwae"``: the importance-weighted bound (Burda et al. 2016,
            arXiv 1509.00519, eq. 8), which with many samples approaches the log-likelihood from below.
        n_samples: L or k, samples of each data point.
        seed: of the noise.
        count: score only the first ``count`` data points. None: all.
        repeats: score each data point with this many independent noises. With two or more, ``noise_stderr`` of the
            result is the part of its error that comes from the noise.
        skip_non_finite: leave out data points whose bound is not finite, and count them as ``skipped``.
        progress: called repeatedly with the number of data points done, which counts up to ``repeats`` times all.

    Raises:
        ValueError: an unknown estimator, ``n_samples < 1``, ``repeats < 1`` or no data.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    values: list[Tensor] = []
    for repeat in range(repeats):
        before = sum(len(value) for value in values)
        told = None if progress is None else partial(_told, progress, before)
        values.append(
            bound_values(
                model,
                x,
                estimator=estimator,
                n_samples=n_samples,
                seed=seed,
                count=count,
                repeat=repeat,
                progress=told,
            )
        )
    return Bound.of(torch.stack(values), skip_non_finite=skip_non_finite)


def _told(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
