"""The results of estimators, and warnings about results that are not to be trusted."""

import math
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .._messages import RepeatedWarning

__all__ = [
    "Bound",
    "LogLikelihood",
    "UntrustedEstimate",
    "least_ess",
    "plus_minus",
    "warn_of_chains",
    "warn_of_latent",
    "warn_of_weights",
]


@dataclass(frozen=True)
class Bound:
    """The mean over data points of a bound or of log p(x), in nats.

    Attributes:
        mean: over data points, and over repeated scores of each.
        stderr: the standard error of the mean as an estimate for new data of the same kind: it includes the variation
            between data points and that of each data point's noise. NaN for a single data point.
        count: the number of data points.
        noise_stderr: the standard error of the mean as an estimate for exactly these data points: the variation by
            noise alone. None: unknown, since each data point was scored once.
        skipped: how many data points were left out because their value is not finite.
    """

    mean: float
    stderr: float
    count: int
    noise_stderr: float | None = None
    skipped: int = 0

    @classmethod
    def of(cls, values: Tensor, *, skip_non_finite: bool = False) -> "Bound":
        """The mean of the values of data points.

        Args:
            values: float64 ``[N]``, or ``[r, N]`` if each data point was scored with r independent noises.
            skip_non_finite: leave out data points whose values are not finite, unless that leaves none.
        """
        skipped = 0
        if skip_non_finite:
            finite = values.isfinite() if values.dim() == 1 else values.isfinite().all(0)
            if finite.any():
                skipped, values = int((~finite).sum()), values[..., finite]
        of_points = values if values.dim() == 1 else values.mean(0)
        count, noise = len(of_points), None
        # A single data point has no standard deviation, nor has a single score of each.
        stderr = of_points.std().item() / count**0.5 if count > 1 else math.nan
        if values.dim() > 1 and len(values) > 1:
            noise = (values.var(0).sum() / len(values)).sqrt().item() / count
        return cls(of_points.mean().item(), stderr, count, noise, skipped)

    def __str__(self) -> str:
        return plus_minus(self.mean, self.stderr)

    @property
    def told(self) -> str:
        """The bound in words, with its unit and the number of data points."""
        points = "1 point" if self.count == 1 else f"{self.count} points"
        skipped = f", {self.skipped} more skipped, not finite" if self.skipped else ""
        return f"{self} nats ({points}{skipped})"


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x) of data points, in nats. An attribute that an estimator does not provide is None.

    Attributes:
        values: float64 ``[N]``.
        stderr: float64 ``[N]``: the standard error of each value by the estimator's noise, to first order; for
            quadrature, the change by the last refinement.
        ess: float64 ``[N]``: the effective sample size of the weights behind a value (Kong 1992).
        accept_prob: float64 ``[N]``: the mean acceptance probability of the Markov chains.
    """

    values: Tensor
    stderr: Tensor
    ess: Tensor | None = None
    accept_prob: Tensor | None = None

    @classmethod
    def of_weights(cls, log_sum: Tensor, ess: Tensor, n: int, accept_prob: Tensor | None = None) -> "LogLikelihood":
        """From n weights whose mean estimates p(x): the log of their sum and their effective sample size, ``[B]``.

        The relative variance of a mean of weights is 1 / ess - 1 / n, which to first order is the variance of its
        logarithm. It is NaN for a single weight.
        """
        stderr = (1 / ess - 1 / n).clamp(min=0).sqrt() if n > 1 else torch.full_like(ess, math.nan)
        return cls(log_sum - math.log(n), stderr, ess, accept_prob)

    @property
    def mean(self) -> Bound:
        """The mean over the data points, with its standard errors."""
        return self.averaged()

    def averaged(self, *, skip_non_finite: bool = False) -> Bound:
        """The mean over the data points; ``skip_non_finite`` as in :meth:`Bound.of`."""
        mean = Bound.of(self.values, skip_non_finite=skip_non_finite)
        errors = self.stderr[self.values.isfinite()] if mean.skipped else self.stderr
        return replace(mean, noise_stderr=errors.square().sum().sqrt().item() / len(errors))

    @classmethod
    def joined(cls, parts: list["LogLikelihood"]) -> "LogLikelihood":
        """Concatenate the results of several batches."""
        names = [field.name for field in fields(cls)]
        columns: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in names}
        joined: dict[str, Any] = {n: None if values[0] is None else torch.cat(values) for n, values in columns.items()}
        return cls(**joined)


def plus_minus(value: float, error: float | None, digits: int = 2, sign: str = "+-") -> str:
    """A number with its standard error; without it if that is None or NaN."""
    if error is None or math.isnan(error):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} {sign} {error:.{digits}f}"


class UntrustedEstimate(RepeatedWarning):
    """An estimate is not to be trusted; the message says why, and what helps."""


# "Good below about 5 latent dimensions" (appendix D).
_MOST_LATENT = 5
_SHARE = 0.05
_ACCEPTANCE = (0.6, 0.99)


def least_ess(n: int) -> float:
    """The smallest effective sample size of n weights that is trusted: 5, or a tenth of n if that is less."""
    return min(5.0, n / 10)


def warn_of_latent(latent: int) -> None:
    """Warn if there are too many latent dimensions to fit a density to samples."""
    if latent > _MOST_LATENT:
        _warn(
            f"the marginal likelihood of appendix D is reliable up to about {_MOST_LATENT} latent dimensions, and the "
            f"model has {latent}: check it against annealed importance sampling"
        )


def warn_of_weights(found: LogLikelihood, n: int, what: str) -> None:
    """Warn if more than 5 % of the data points have an effective sample size below :func:`least_ess`."""
    if found.ess is None:
        return
    share = found.ess.ge(least_ess(n)).logical_not().double().mean().item()
    if share > _SHARE:
        _warn(
            f"{share:.0%} of the data points have an effective sample size below {least_ess(n):g} of {n} {what}: "
            "their values are not reliable; take more"
        )


def warn_of_chains(found: LogLikelihood) -> None:
    """Warn if the mean acceptance probability is far from 0.9: below 0.6 or above 0.99."""
    if found.accept_prob is None:
        return
    mean = found.accept_prob.mean().item()
    if not _ACCEPTANCE[0] <= mean <= _ACCEPTANCE[1]:
        _warn(f"the chains accept {mean:.0%} of their proposals, far from 90 %: their step size is not adapted")


def _warn(message: str) -> None:
    # Points at the caller of the estimator, which is decorated.
    warnings.warn(message, UntrustedEstimate, stacklevel=5)
