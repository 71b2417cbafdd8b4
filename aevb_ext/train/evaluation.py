"""Evaluations, shared out over the processes."""

import torch
from torch import Tensor

from ..data import Rows
from ..estimators import Bound, bound_values
from ..models import VAE
from .processes import Processes

__all__ = ["shared_bound"]

# Data points that are evaluated together whatever the number of processes, so that the bits of the result do not depend
# on it.
_BLOCK = 1000


def shared_bound(model: VAE, x: Tensor | Rows, processes: Processes, *, count: int | None = None, **how) -> Bound:
    """What :func:`~aevb_ext.estimators.evaluate_bound` gives, each process having done its share.

    Args:
        model, x, count: as there, the same in all processes.
        processes: among whom blocks of data points are shared out.
        how: ``estimator=``, ``n_samples=``, ``seed=``, as there.

    Returns:
        The same bits in each process, and with any number of them.
    """
    n = len(x) if count is None else min(len(x), count)
    blocks = range(0, n, _BLOCK)
    found = {
        first: bound_values(model, x, first=first, count=min(_BLOCK, n - first), **how)
        for first in blocks[processes.rank :: processes.world_size]
    }
    values = torch.zeros(n, dtype=torch.float64, device=next(model.parameters()).device)
    for first, block in found.items():
        values[first : first + len(block)] = block
    # Everything but its own share is 0 in each process: the sum is exact.
    return Bound.of(processes.sum(values))
