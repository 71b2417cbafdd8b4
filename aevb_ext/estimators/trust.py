"""Warnings where estimates of log p(x) are not to be trusted."""

import warnings

from .result import LogLikelihood

__all__ = ["UntrustedEstimate", "least_ess", "warn_of_chains", "warn_of_latent", "warn_of_weights"]


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
    share = (~(found.ess >= least_ess(n))).double().mean().item()
    if share > _SHARE:
        _warn(
            f"{share:.0%} of the data points have an effective sample size below {least_ess(n):g} of {n} {what}: "
            "their values are not reliable; take more"
        )


def warn_of_chains(found: LogLikelihood) -> None:
    """Where the mean acceptance probability is far from 0.9: below 0.6 or above 0.99."""
    mean = found.accept_prob.mean().item()
    if not _ACCEPTANCE[0] <= mean <= _ACCEPTANCE[1]:
        _warn(f"the chains accept {mean:.0%} of their proposals, far from 90 %: their stepsize is not adapted")


def _warn(message: str) -> None:
    # Of the caller of the estimator, which is decorated.
    warnings.warn(message, UntrustedEstimate, stacklevel=5)
