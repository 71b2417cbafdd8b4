"""The importance-weighted bound; its samples are streamed in blocks."""

from collections.abc import Callable

import torch
from torch import Tensor

from .._types import Generators
from ..data import Rows
from ..models import VAE
from ..models.bound import ROWS, data_points, sample_terms, terms_iwae
from ..nn.stream import Totals
from ..noise import keys_at
from .result import LogLikelihood, warn_of_weights

__all__ = ["importance_weighted_bound", "importance_weighted_log_likelihood"]


def importance_weighted_bound(
    model: VAE,
    x: Tensor,
    n_samples: int,
    *,
    block: int | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
) -> Tensor:
    r"""The importance-weighted bound of each data point (Burda et al. 2016, arXiv 1509.00519, eq. 8).

    .. math:: \log \frac1k \sum_i p(x, z_i) / q(z_i | x), \quad z_i \sim q(z | x) \text{ reparameterised}

    Memory does not grow with k: the samples are computed a block at a time, as in ``ELBO(k, block=...)``.

    Args:
        model: the VAE.
        x: ``[B, *event]``.
        n_samples: k.
        block: samples computed at a time; the noise and (up to rounding) the result do not depend on it. None: as many
            as make about five thousand rows of the decoder's output.
        key, generator: where the noise comes from, as in :func:`aevb_ext.rsample`.

    Returns:
        ``[B]``, in nats, differentiable in the model's parameters (only once, if there is more than one block).

    Raises:
        ValueError: n_samples or block is not an integer of at least 1; the key does not fit.
    """
    block = max(1, ROWS // max(1, len(x))) if block is None else block
    return terms_iwae(model, x, n_samples, block=block, key=key, generator=generator).bound


@torch.no_grad()
def importance_weighted_log_likelihood(
    model: VAE,
    x: Tensor | Rows,
    *,
    n_samples: int = 5000,
    seed: int = 0,
    first: int = 0,
    count: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LogLikelihood:
    """The importance-weighted bound of each data point, with the effective sample size of its weights.

    The values are those of :func:`~aevb_ext.estimators.bound_values` with ``estimator="iwae"``, up to rounding. They
    approach log p(x) from below, with fewer samples the closer q(z | x) is to the posterior; if the effective sample
    size is small they are far below it. Memory grows neither with the number of data points nor with the samples of
    each.

    Args:
        model: the VAE.
        x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`.
        n_samples: k.
        seed: of the noise.
        first, count: score ``count`` data points from index ``first`` on. None: all that follow.
        progress: called repeatedly with the number of data points done.

    Returns:
        ``values``, ``stderr`` (NaN for one sample) and ``ess``.

    Warns:
        UntrustedEstimate: for more than 5 % of the data points the effective sample size is below 5 (or a tenth of the
            samples).

    Raises:
        ValueError: no data, or ``n_samples < 1``.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    parts = []
    for index, batch in data_points(model, x, max(1, ROWS // n_samples), seed, first, count, progress):
        terms = sample_terms(model, batch, model.posterior(batch), keys_at(seed, "evaluation", index))
        totals = Totals(weighted=True)
        for start in range(0, n_samples, ROWS):
            totals.add(tuple(value.double() for value in terms(start, min(ROWS, n_samples - start))[0]))
        parts.append(LogLikelihood.of_weights(totals.log_sum, totals.effective_sample_size, n_samples))
    found = LogLikelihood.joined(parts)
    warn_of_weights(found, n_samples, "samples")
    return found
