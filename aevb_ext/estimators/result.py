"""What estimators give, and warnings where it is not to be trusted."""

import math
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

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
        names = [field.name for field in fields(cls)]
        columns: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in names}
        joined: dict[str, Any] = {n: None if values[0] is None else torch.cat(values) for n, values in columns.items()}
        return cls(**joined)


def plus_minus(value: float, error: float | None, digits: int = 2, sign: str = "+-") -> str:
    """A number with its standard error; alone where there is none (None, or NaN, which is that of one data point)."""
    if error is None or math.isnan(error):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} {sign} {error:.{digits}f}"


class UntrustedEstimate(UserWarning):
    """An estimate is not to be trusted; the message says why, and what helps."""


# "Good below about 5 latent dimensions" (appendix D).
_MOST_LATENT = 5
_SHARE = 0.05
_ACCEPTANCE = (0.6, 0.99)


def least_ess(n: int) -> float:
    """What n weights have to be worth: five draws, or a tenth of n where that is less."""
    return min(5.0, n / 10)


def warn_of_latent(latent: int) -> None:
    """Where a density of so many dimensions is not fitted well to samples."""
    if latent > _MOST_LATENT:
        _warn(
            f"the marginal likelihood of appendix D is reliable up to about {_MOST_LATENT} latent dimensions, and the "
            f"model has {latent}: check it against annealed importance sampling"
        )


def warn_of_weights(found: LogLikelihood, n: int, what: str) -> None:
    """Where more than 5 % of the data points have weights that are worth less than :func:`least_ess`."""
    if found.ess is None:
        return
    share = found.ess.ge(least_ess(n)).logical_not().double().mean().item()
    if share > _SHARE:
        _warn(
            f"{share:.0%} of the data points have an effective sample size below {least_ess(n):g} of {n} {what}: "
            "their values are not reliable; take more"
        )


def warn_of_chains(found: LogLikelihood) -> None:
    """Where the mean acceptance probability is far from 0.9: below 0.6 or above 0.99."""
    if found.accept_prob is None:
        return
    mean = found.accept_prob.mean().item()
    if not _ACCEPTANCE[0] <= mean <= _ACCEPTANCE[1]:
        _warn(f"the chains accept {mean:.0%} of their proposals, far from 90 %: their stepsize is not adapted")


def _warn(message: str) -> None:
    # Of the caller of the estimator, which is decorated.
    warnings.warn(message, UntrustedEstimate, stacklevel=5)
