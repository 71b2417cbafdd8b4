"""``aevb evaluate``."""

import argparse
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...configuration.choices import LOG_LIKELIHOOD_ESTIMATORS
from ...data import Rows
from ...estimators import (
    Bound,
    LogLikelihood,
    annealed_importance_sampling,
    evaluate_bound,
    importance_weighted_log_likelihood,
    marginal_likelihood,
    quadrature_log_likelihood,
)
from ...models import VAE
from ...progress_bar import bar
from ..checks import setting
from .common import model_and_data

__all__ = ["evaluate"]

# The estimators of log p(x) itself.
_LOG_LIKELIHOOD: dict[str, Callable[..., LogLikelihood]] = {
    "marginal": marginal_likelihood,
    "ais": annealed_importance_sampling,
    "quadrature": quadrature_log_likelihood,
}


def evaluate(a: argparse.Namespace) -> None:
    """Print the bound, or the log-likelihood, of each split."""
    model, data = model_and_data(a)
    # Data points that training skipped are skipped here too.
    skip = setting(a.checkpoint, "non_finite") == "skip"
    for split in a.split or ("train", "test"):
        x, _ = data.split(split)
        n = min(len(x), a.count or len(x))
        with bar(f"{split} {a.estimator}", n * a.repeats) as progress:
            line = _line(model, x, a, skip, progress)
        # With many samples or chains a split takes minutes: print each line at once.
        print(f"{split} {line}", flush=True)


def _line(model: VAE, x: Tensor | Rows, a: argparse.Namespace, skip: bool, progress: Callable[[int], None]) -> str:
    options: dict[str, Any] = {"seed": a.seed, "count": a.count, "progress": progress}
    if a.estimator in _LOG_LIKELIHOOD:
        estimate, samples = _LOG_LIKELIHOOD[a.estimator], LOG_LIKELIHOOD_ESTIMATORS[a.estimator]
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
