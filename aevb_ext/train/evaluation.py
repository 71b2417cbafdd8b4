"""Evaluations, shared out over the processes."""

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

# Of how many data points of a split the marginal log-likelihood is estimated.
MARGINAL_POINTS = 1000

# The paper's, for its Figure 3 (appendix D).
_MARGINAL: dict[str, Any] = {"n_samples": 50, "leapfrog_steps": 4}

# Data points that are evaluated together whatever the number of processes, so that the bits of the result do not depend
# on it.
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
    """What :func:`~aevb_ext.estimators.evaluate_bound` gives, each process having done its share.

    Args:
        model, x, count: as there, the same in all processes.
        processes: among whom blocks of data points are shared out.
        skip_non_finite: leave out what is not finite, as :meth:`.Bound.of` does.
        how: ``estimator=``, ``n_samples=``, ``seed=``, as there.

    Returns:
        The same bits in each process, and with any number of them.
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
    """The mean of the marginal log-likelihood by the estimator of appendix D, likewise shared out.

    4 leapfrog steps and 50 samples a data point, as for the paper's Figure 3.

    Args:
        model, x, processes, count, skip_non_finite: as of :func:`shared_bound`.
        progress: called with how many data points are done, again and again.
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
    # Everything but its own share is 0 in each process: the sum is exact.
    return processes.sum(values)
