"""What estimators of log p(x) give, and how they go through data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..data import Rows, prefetch, rows_of
from ..models import VAE
from ..noise import keys_at

__all__ = ["LogLikelihood", "home", "points"]


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x) of data points, in nats. What an estimator does not have is None.

    Attributes:
        values: float64 ``[N]``.
        stderr: float64 ``[N]``: of each value over the estimator's own noise, to first order; of a quadrature, by how
            much its last refinement has changed it.
        ess: float64 ``[N]``: how many independent draws the weights behind a value are worth (Kong 1992).
        accept_prob: float64 ``[N]``: the mean acceptance probability of the Markov chains.
    """

    values: Tensor
    stderr: Tensor
    ess: Tensor | None = None
    accept_prob: Tensor | None = None

    @classmethod
    def of_weights(cls, log_sum: Tensor, ess: Tensor, n: int, accept_prob: Tensor | None = None) -> "LogLikelihood":
        """Of n weights whose mean estimates p(x), by the logarithm of their sum and by what they are worth, ``[B]``.

        The relative variance of a mean of weights is 1 / ess - 1 / n, and that is the variance of its logarithm to
        first order.
        """
        stderr = (1 / ess - 1 / n).clamp(min=0).sqrt()
        return cls(log_sum - math.log(n), stderr, ess, accept_prob)

    @classmethod
    def joined(cls, parts: list["LogLikelihood"]) -> "LogLikelihood":
        """Those of several batches, one after another."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))


def home(model: VAE, x: Tensor | Rows) -> tuple[torch.device, torch.dtype]:
    """Where and in what dtype a model computes: as its parameters, or without any as its data."""
    rows = rows_of(x)
    of_data = rows.dtype if rows.dtype.is_floating_point else torch.get_default_dtype()
    return next(((p.device, p.dtype) for p in model.parameters()), (rows.device, of_data))


def points(
    model: VAE,
    x: Tensor | Rows,
    size: int,
    seed: int,
    first: int = 0,
    count: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Data points from number ``first`` on, ``size`` at a time: int64 ``[B]``, their numbers, and ``[B, *event]``.

    Both are on the model's device.

    Args:
        seed: of rows that draw.
        progress: called with how many data points are done, after each batch.

    Raises:
        ValueError: there are none.
    """
    rows, (device, _) = rows_of(x), home(model, x)
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
