"""Evaluations, distributed over the processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import estimators
from ..data import Rows
from ..estimators import Bound, bound_values
from ..models import VAE
from .distributed import Processes

__all__ = ["MARGINAL_POINTS", "shared_bound", "shared_marginal"]

# The marginal log-likelihood is estimated for this many data points of a split.
MARGINAL_POINTS = 1000

# The paper's, for its Figure 3 (appendix D).
_MARGINAL: dict[str, Any] = {"n_samples": 50, "leapfrog_steps": 4}

# Data points are evaluated in blocks of this size, whatever the number of processes, so that the result does not depend
# on it, bit for bit.
_BLOCK = 1000


def shared_bound(
    model: VAE,
    x: Tensor | Rows,
    processes: Processes,
    *,
    count: int | None = None,
    skip_non_finite: bool = False,
    **how: Any,
) -> Bound:
    """The same as :func:`~aevb_ext.estimators.evaluate_bound`; each process computes a share of it.

    Args:
        model, x, count: as in ``evaluate_bound``, the same in all processes.
        processes: the processes that share the blocks of data points.
        skip_non_finite: leave out values that are not finite, as in :meth:`.Bound.of`.
        how: ``estimator=``, ``n_samples=``, ``seed=``, as in ``evaluate_bound``.

    Returns:
        The same bits in each process, and with any number of processes.
    """
    values = _shared(lambda **part: bound_values(model, x, **part, **how), model, x, processes, count)
    return Bound.of(values, skip_non_finite=skip_non_finite)


def shared_marginal(
    model: VAE,
    x: Tensor | Rows,
    processes: Processes,
    *,
    count: int | None = None,
    skip_non_finite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Bound:
    """The mean of the marginal log-likelihood by the estimator of appendix D; each process computes a share of it.

    It uses 4 leapfrog steps and 50 samples a data point, as for the paper's Figure 3.

    Args:
        model, x, processes, count, skip_non_finite: as in :func:`shared_bound`.
        progress: called repeatedly with the number of data points done.
    """

    def values(first: int, count: int) -> Tensor:
        return estimators.marginal_likelihood(
            model, x, first=first, count=count, progress=lambda done: progress(first + done), **_MARGINAL
        ).values

    return Bound.of(_shared(values, model, x, processes, count), skip_non_finite=skip_non_finite)


def _shared(
    values_of: Callable[..., Tensor], model: VAE, x: Tensor | Rows, processes: Processes, count: int | None
) -> Tensor:
    """The value of each data point, float64 ``[n]``."""
    n = len(x) if count is None else min(len(x), count)
    blocks = range(0, n, _BLOCK)
    found = {
        first: values_of(first=first, count=min(_BLOCK, n - first))
        for first in blocks[processes.rank :: processes.world_size]
    }
    values = torch.zeros(n, dtype=torch.float64, device=next(model.parameters()).device)
    for first, block in found.items():
        values[first : first + len(block)] = block
    # In each process everything but its own share is 0, so the sum is exact.
    return processes.sum(values)
