"""The variational lower bound of a VAE: its SGVB estimators (section 2.3), and its values over a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import functional as F
from .._library import ops
from .._types import Generators
from ..data import Rows, prefetch, rows_of
from ..hmc import log_prior
from ..nn import ELBO, ELBOTerms
from ..nn.stream import Terms, streamed
from ..noise import keys_at

if TYPE_CHECKING:
    from .vae import VAE

__all__ = [
    "ESTIMATORS",
    "POINT_BITS",
    "ROWS",
    "bound_values",
    "data_points",
    "device_and_dtype",
    "sample_terms",
    "terms_a",
    "terms_b",
    "terms_iwae",
]

# Keys of a data point's repetitions and chains are numbered in the bits above its index, which has this many bits.
POINT_BITS = 40

# The default number of rows of the decoder's output computed at a time: enough that loading the weights and the calls
# cost little beside the products, few enough to stay in the last-level cache (docs/many-samples.md).
ROWS = 5000
# Numbers in the decoder's output that are computed at a time: rows of thousands of genes would fill the memory.
_NUMBERS = 1 << 23


def terms_a(
    model: VAE,
    x: Tensor,
    n_samples: int = 1,
    *,
    block: int | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
) -> ELBOTerms:
    """Estimator A (eq. 6); ``kl`` is the mean over samples of log q(z | x) - log p(z).

    Args:
        model: the VAE.
        x: ``[B, *event]``.
        n_samples: L.
        block: samples computed at a time, as in :class:`~aevb_ext.nn.ELBO`. None: all at once.
        key, generator: where the noise comes from, as in :func:`aevb_ext.rsample`.
    """
    mu, logvar = q = model.posterior(x)
    terms = sample_terms(model, x, q, F.key_for(mu, key, generator))  # one key for all blocks
    sums: Sequence[Tensor]
    if block is None or block >= n_samples:
        sums = [value.sum(0) for value in terms(0, n_samples)[0]]
    else:
        sums = streamed(terms, n_samples, block, (x, mu, logvar), weighted=False)
    reconstruction, kl = (total / n_samples for total in sums)
    return ELBOTerms(reconstruction - kl, reconstruction, kl)


def sample_terms(model: VAE, x: Tensor, q: tuple[Tensor, Tensor], key: Tensor) -> Callable[[int, int], Terms]:
    """A function ``terms(first, n)``: log p(x | z) and log q(z | x) - log p(z), ``[n, B]`` each, of n samples of q."""
    mu, logvar = q

    def terms(first: int, n: int) -> Terms:
        z = F.rsample(mu, logvar, n_samples=n, first_sample=first, key=key)
        log_q = F.gaussian_log_prob(z, mu.expand_as(z), logvar, batch_dims=2)
        return (model.log_likelihood(x, z), log_q - log_prior(z)), None

    return terms


def terms_b(
    model: VAE,
    x: Tensor,
    n_samples: int = 1,
    *,
    block: int | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
) -> ELBOTerms:
    """Estimator B (eq. 7); ``kl`` is in closed form. Arguments are those of :func:`terms_a`."""
    if block is not None and block < n_samples:
        return _terms(ELBO(n_samples, block=block), model, x, key, generator)
    if n_samples == 1 and key is not None and generator is None:
        parameters = model._mlp_parameters(x)
        if parameters is not None:
            return ELBOTerms(*ops.mlp_bound(x, key, parameters, model.x_scale))
    # For the plain bound this is faster than the general ELBO module.
    mu, logvar = model.posterior(x)
    # One sample needs no sample dimension, and no mean over it.
    z, kl = F.rsample_kl(mu, logvar, n_samples=None if n_samples == 1 else n_samples, key=key, generator=generator)
    reconstruction = model.log_likelihood(x, z)
    if n_samples > 1:
        reconstruction = reconstruction.mean(0)
    return ELBOTerms(reconstruction - kl, reconstruction, kl)


def terms_iwae(
    model: VAE,
    x: Tensor,
    n_samples: int = 1,
    *,
    block: int | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
) -> ELBOTerms:
    """The importance-weighted bound of k samples (Burda et al. 2016, arXiv 1509.00519, eq. 8).

    Arguments and ``kl`` are as in :func:`terms_a`.
    """
    return _terms(ELBO(n_samples, importance_weighted=True, block=block), model, x, key, generator)


def _terms(elbo: ELBO, model: VAE, x: Tensor, key: Tensor | None, generator: Generators | None) -> ELBOTerms:
    return elbo(x, model.posterior(x), model.log_likelihood, key=key, generator=generator)


ESTIMATORS = {"a": terms_a, "b": terms_b, "iwae": terms_iwae}


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
    repeat: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The values that :func:`~aevb_ext.estimators.evaluate_bound` averages, float64 ``[count]``.

    They are those of the data points from index ``first`` on, with the noise of repetition number ``repeat``.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    values = []
    for index, batch in data_points(model, x, max(1, _rows_of_width(x) // n_samples), seed, first, count, progress):
        key = keys_at(seed, "evaluation", index + (repeat << POINT_BITS))
        values.append(ESTIMATORS[estimator](model, batch, n_samples, block=ROWS, key=key).bound)
    return torch.cat(values).double()


def _rows_of_width(x: Tensor | Rows) -> int:
    """The number of rows of the decoder's output computed at a time: fewer if data points are large."""
    return max(1, min(ROWS, _NUMBERS // max(1, rows_of(x).event_shape.numel())))


def device_and_dtype(model: VAE, x: Tensor | Rows) -> tuple[torch.device, torch.dtype]:
    """The device and dtype that a model computes in: those of its parameters, or of the data if it has none."""
    rows = rows_of(x)
    of_data = rows.dtype if rows.dtype.is_floating_point else torch.get_default_dtype()
    return next(((p.device, p.dtype) for p in model.parameters()), (rows.device, of_data))


def data_points(
    model: VAE,
    x: Tensor | Rows,
    size: int,
    seed: int,
    first: int = 0,
    count: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of ``size`` data points from index ``first`` on: their indices, int64 ``[B]``, and ``[B, *event]``.

    Both are on the model's device.

    Args:
        seed: of rows that draw.
        progress: called after each batch with the number of data points done.

    Raises:
        ValueError: there are no data points.
    """
    rows, (device, _) = rows_of(x), device_and_dtype(model, x)
    last = len(rows) if count is None else min(len(rows), first + count)
    if last <= first:
        raise ValueError(f"x must have at least one data point, got {len(rows)}")
    parts = torch.arange(first, last, device=rows.device).split(size)
    batches = prefetch(rows, ((index, keys_at(seed, "evaluation binarize", index)) for index in parts), device)
    done = 0
    for index, batch in zip(parts, batches, strict=True):
        yield index.to(device), batch
        done += len(index)
        if progress is not None:
            progress(done)
