"""What estimators give, and how they go through data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..data import Rows, prefetch, rows_of
from ..models import VAE
from ..noise import keys_at

__all__ = ["POINT_BITS", "Bound", "LogLikelihood", "home", "plus_minus", "points"]

# How many data points there may be: what a data point has several of (noises, chains) is numbered above it.
POINT_BITS = 40


@dataclass(frozen=True)
class Bound:
    """The mean over data points of a bound or of log p(x), in nats.

    Attributes:
        mean: over data points, and where each was scored several times over these.
        stderr: of the mean as an estimate for data like this: by how much it varies with the data points, and with the
            noise that each has of its own.
            NaN of one data point, which says nothing about others.
        count: how many data points.
        noise_stderr: of the mean as an estimate for these very data points: by how much it varies with the noise
            alone. None: not known, since each was scored once.
        skipped: how many more data points there are whose value is not finite, and which were left out.
    """

    mean: float
    stderr: float
    count: int
    noise_stderr: float | None = None
    skipped: int = 0

    @classmethod
    def of(cls, values: Tensor, *, skip_non_finite: bool = False) -> "Bound":
        """Of the value of each data point, ``[N]``, or ``[r, N]``: each scored with r independent noises.

        Args:
            values: float64.
            skip_non_finite: leave data points out whose values are not finite, unless none has any that are.
        """
        skipped = 0
        if skip_non_finite:
            finite = values.isfinite() if values.dim() == 1 else values.isfinite().all(0)
            if finite.any():
                skipped, values = int((~finite).sum()), values[..., finite]
        of_points = values if values.dim() == 1 else values.mean(0)
        count, noise = len(of_points), None
        # One data point says nothing about its own spread, and neither does one score of it.
        stderr = of_points.std().item() / count**0.5 if count > 1 else math.nan
        if values.dim() > 1 and len(values) > 1:
            noise = (values.var(0).sum() / len(values)).sqrt().item() / count
        return cls(of_points.mean().item(), stderr, count, noise, skipped)

    def __str__(self) -> str:
        return plus_minus(self.mean, self.stderr)

    @property
    def told(self) -> str:
        """In words, with its unit and how many data points it is of."""
        points = "1 point" if self.count == 1 else f"{self.count} points"
        skipped = f", {self.skipped} more skipped, not finite" if self.skipped else ""
        return f"{self} nats ({points}{skipped})"


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
        first order; one weight says nothing about its own.
        """
        stderr = (1 / ess - 1 / n).clamp(min=0).sqrt() if n > 1 else torch.full_like(ess, math.nan)
        return cls(log_sum - math.log(n), stderr, ess, accept_prob)

    @property
    def mean(self) -> Bound:
        """The mean over the data points, with its standard errors."""
        return self.averaged()

    def averaged(self, *, skip_non_finite: bool = False) -> Bound:
        """The same, and where it is asked for without data points whose value is not finite, as in :meth:`Bound.of`."""
        mean = Bound.of(self.values, skip_non_finite=skip_non_finite)
        errors = self.stderr[self.values.isfinite()] if mean.skipped else self.stderr
        return replace(mean, noise_stderr=errors.square().sum().sqrt().item() / len(errors))

    @classmethod
    def joined(cls, parts: list["LogLikelihood"]) -> "LogLikelihood":
        """Those of several batches, one after another."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))


def plus_minus(value: float, error: float | None, digits: int = 2, sign: str = "+-") -> str:
    """A number with its standard error; alone where there is none (None, or NaN, which is that of one data point)."""
    if error is None or math.isnan(error):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} {sign} {error:.{digits}f}"


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
