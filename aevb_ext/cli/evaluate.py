"""``aevb evaluate``."""

import argparse
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..data import Rows
from ..estimators import (
    ESTIMATORS,
    Bound,
    LogLikelihood,
    annealed_importance_sampling,
    evaluate_bound,
    importance_weighted_log_likelihood,
    marginal_likelihood,
    quadrature_log_likelihood,
)
from ..models import VAE
from ..progress_bar import bar
from . import common
from .common import Subcommands
from .config import count, whole

__all__ = ["add"]

# The estimators of log p(x) itself, with their default number of samples; None: the estimator draws none.
_LOG_LIKELIHOOD_ESTIMATORS: dict[str, tuple[Callable[..., LogLikelihood], int | None]] = {
    "marginal": (marginal_likelihood, 50),
    "ais": (annealed_importance_sampling, 16),
    "quadrature": (quadrature_log_likelihood, None),
}


def add(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "evaluate",
        help="the bound, or the log-likelihood, of a run's model",
        description="Prints the mean over the data points, its standard error and, if it is known, the part of that "
        "error that comes from the noise. marginal, ais and quadrature need no encoder.",
    )
    parser.set_defaults(run=_evaluate)
    common.add_run(parser)
    common.add_data_flags(parser)
    parser.add_argument(
        "--estimator",
        choices=(*ESTIMATORS, *_LOG_LIKELIHOOD_ESTIMATORS),
        default="b",
        help="of the bound: a (eq. 6), b (eq. 7) or iwae (importance-weighted); of log p(x): marginal (appendix D, up "
        "to about 5 latent dimensions), ais (annealed importance sampling), quadrature (up to 3); default: %(default)s",
    )
    parser.add_argument(
        "--samples",
        type=count,
        metavar="L",
        help="samples of z for each data point; memory does not grow with them; default: 1, for marginal 50, for ais "
        "16 chains",
    )
    parser.add_argument(
        "--repeats",
        type=count,
        default=1,
        metavar="R",
        help="for a and b: score with R independent noises, to measure their part of the error; default: %(default)s",
    )
    parser.add_argument(
        "--split", choices=("train", "valid", "test"), action="append", help="may be repeated; default: train and test"
    )
    parser.add_argument("--count", type=count, metavar="N", help="the first N data points of a split; default: all")
    parser.add_argument("--seed", type=whole, default=0, help="default: %(default)s")
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def _evaluate(a: argparse.Namespace) -> None:
    _check(a)
    model, data = common.model_and_data(a)
    # Data points that training skipped are skipped here too.
    skip = common.setting(a.checkpoint, "non_finite") == "skip"
    for split in a.split or ("train", "test"):
        x, _ = data.split(split)
        n = min(len(x), a.count or len(x))
        with bar(f"{split} {a.estimator}", n * a.repeats) as progress:
            line = _line(model, x, a, skip, progress)
        # With many samples or chains a split takes minutes: print each line at once.
        print(f"{split} {line}", flush=True)


def _line(model: VAE, x: Tensor | Rows, a: argparse.Namespace, skip: bool, progress: Callable[[int], None]) -> str:
    options: dict[str, Any] = {"seed": a.seed, "count": a.count, "progress": progress}
    if a.estimator in _LOG_LIKELIHOOD_ESTIMATORS:
        estimate, samples = _LOG_LIKELIHOOD_ESTIMATORS[a.estimator]
        if samples is not None:
            samples = options["n_samples"] = a.samples or samples
        return f"log p(x) {_formatted(estimate(model, x, **options), samples, skip)}"
    samples = a.samples or 1
    if a.estimator == "iwae" and samples > 1 and a.repeats == 1:
        found = importance_weighted_log_likelihood(model, x, n_samples=samples, **options)
        return f"bound {_formatted(found, samples, skip)}"
    options |= {"estimator": a.estimator, "repeats": a.repeats, "skip_non_finite": skip}
    bound = evaluate_bound(model, x, n_samples=samples, **options)
    return f"bound {bound.told}{_noise(bound)}"


def _formatted(found: LogLikelihood, samples: int | None, skip: bool) -> str:
    mean = found.averaged(skip_non_finite=skip)
    line = mean.told
    kept = found.values.isfinite() if mean.skipped else slice(None)
    if found.ess is None:
        return f"{line}, each to within {found.stderr[kept].max():.1g}"
    line += f"{_noise(mean)}, effective sample size {found.ess[kept].median():.3g} of {samples} (median)"
    if found.accept_prob is not None:
        line += f", acceptance {found.accept_prob[kept].mean():.0%}"
    return line


def _noise(bound: Bound) -> str:
    return "" if bound.noise_stderr is None else f", +- {bound.noise_stderr:.2g} of it by the noise"


def _check(a: argparse.Namespace) -> None:
    """Check the flags before anything slow starts.

    Raises:
        ValueError: a flag that the estimator does not have, or a bound of a model whose encoder was not trained.
    """
    if a.samples is not None and a.estimator == "quadrature":
        raise ValueError(f"--samples: quadrature draws none, got {a.samples}")
    if a.repeats > 1 and a.estimator in _LOG_LIKELIHOOD_ESTIMATORS:
        raise ValueError(
            f"--repeats is for the bound (a, b): {a.estimator} measures its noise in one pass, got {a.repeats}"
        )
    if a.estimator in ESTIMATORS and (learner := common.learner_without_encoder(a.checkpoint)):
        raise ValueError(
            f"--estimator {a.estimator} needs an encoder, and the run's learner {learner} trains none: take one of "
            f"{', '.join(_LOG_LIKELIHOOD_ESTIMATORS)}"
        )
