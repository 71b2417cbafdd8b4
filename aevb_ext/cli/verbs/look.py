"""The verbs that look at runs: ``aevb evaluate``, ``report``, ``compare``, ``manifold`` and ``interpolate``."""

from __future__ import annotations

import argparse

from ...configuration.choices import ESTIMATORS, LOG_LIKELIHOOD_ESTIMATORS, SPLITS
from ...configuration.saved_run import read_run_config
from ..checks import check_encoder, check_model, check_model_and_data, learner_without_encoder
from ..parser import Verbs, command
from ..values import count, file_to_write, whole
from .arguments import add_data_flags, add_device, add_out, add_run, add_seed, add_uses_flags

__all__ = ["add"]


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    _add_evaluate(verbs)
    _add_pages(verbs)
    _add_latent_space(verbs)


def _add_evaluate(verbs: Verbs) -> None:
    parser = verbs.add(
        "evaluate",
        "the bound, or the log-likelihood, of a run's model",
        run=command("evaluate", "evaluate"),
        check=_check_evaluate,
        example="aevb evaluate runs/first --estimator iwae --samples 100 --split test",
        description="Prints the mean over the data points, its standard error and, if it is known, the part of that "
        "error that comes from the noise. marginal, ais and quadrature need no encoder.",
    )
    add_run(parser)
    add_data_flags(parser)
    parser.add_argument(
        "--estimator",
        choices=(*ESTIMATORS, *LOG_LIKELIHOOD_ESTIMATORS),
        default="b",
        help="of the bound: a (eq. 6), b (eq. 7) or iwae (importance-weighted); of log p(x): marginal (appendix D, up "
        "to about 5 latent dimensions), ais (annealed importance sampling), quadrature (up to 3); default: %(default)s",
    )
    of_others = ", ".join(f"for {name} {samples}" for name, samples in LOG_LIKELIHOOD_ESTIMATORS.items() if samples)
    parser.add_argument(
        "--samples",
        type=count,
        metavar="L",
        help="samples of z for each data point (of ais: chains); memory does not grow with them; default: 1, "
        f"{of_others}",
    )
    parser.add_argument(
        "--repeats",
        type=count,
        default=1,
        metavar="R",
        help="for a and b: score with R independent noises, to measure their part of the error; default: %(default)s",
    )
    parser.add_argument("--split", choices=SPLITS, action="append", help="may be repeated; default: train and test")
    parser.add_argument("--count", type=count, metavar="N", help="the first N data points of a split; default: all")
    add_seed(parser)
    add_device(parser)


def _check_evaluate(a: argparse.Namespace) -> None:
    if a.samples is not None and a.estimator == "quadrature":
        raise ValueError(f"--samples: quadrature draws none, got {a.samples}")
    if a.repeats > 1 and a.estimator in LOG_LIKELIHOOD_ESTIMATORS:
        raise ValueError(
            f"--repeats is for the bound (a, b): {a.estimator} measures its noise in one pass, got {a.repeats}"
        )
    if a.estimator in ESTIMATORS and (learner := learner_without_encoder(a.checkpoint)):
        raise ValueError(
            f"--estimator {a.estimator} needs an encoder, and the run's learner {learner} trains none: take one of "
            f"{', '.join(LOG_LIKELIHOOD_ESTIMATORS)}"
        )
    check_model_and_data(a)


def _add_pages(verbs: Verbs) -> None:
    parser = verbs.add(
        "report",
        "an HTML page about a run",
        run=command("report", "report"),
        check=lambda a: _check_runs([a.checkpoint]),
        example="aevb report runs/first",
        description="It has the run's curves, pictures, latent dimensions, settings and environment.",
    )
    parser.add_argument("checkpoint", metavar="RUN", help="the folder of a run, or one of its checkpoints")
    add_data_flags(parser)
    parser.add_argument(
        "--out", type=file_to_write(".html"), metavar="FILE.html", help="default: report.html in the run's folder"
    )

    parser = verbs.add(
        "compare",
        "a table of runs",
        run=command("report", "compare"),
        check=lambda a: _check_runs(a.folders),
        example="aevb compare runs/* --out runs.html",
        description="A row for each: its bounds, its length and time, and every setting in which they differ.",
    )
    parser.add_argument("folders", metavar="RUN", nargs="+", help="folders of runs")
    parser.add_argument(
        "--out", type=file_to_write(".html"), metavar="FILE.html", help="also write a page, with their curves"
    )


def _check_runs(runs: list[str]) -> None:
    for run in runs:
        read_run_config(run)


def _add_latent_space(verbs: Verbs) -> None:
    parser = verbs.add(
        "manifold",
        "a picture of a plane through latent space",
        run=command("generate", "manifold"),
        check=check_model,
        example="aevb manifold runs/first --dims 0 1 --out plane.png",
        description="Two dimensions of z vary, each through the quantiles of its prior; the others are 0.",
    )
    add_run(parser)
    add_out(parser, ".png", what="the picture to write")
    parser.add_argument(
        "--side", type=count, default=20, metavar="N", help="images along each side; default: %(default)s"
    )
    parser.add_argument(
        "--dims", type=whole, nargs=2, metavar="I", help="which two of more dimensions, counted from 0: right, up"
    )

    parser = verbs.add(
        "interpolate",
        "a picture of interpolations between data points",
        run=command("generate", "interpolate"),
        check=check_encoder,
        example="aevb interpolate runs/first --pair 0 1 --out between.png",
        description="A row for each pair of data points: the first one, its reconstruction, decoded points on the "
        "line between the two posterior means, the reconstruction of the second one, the second one.",
    )
    add_uses_flags(parser, "test")
    add_out(parser, ".png", what="the picture to write")
    parser.add_argument(
        "--pair",
        type=whole,
        nargs=2,
        action="append",
        metavar="I",
        help="the indices of two data points; may be repeated; default: the first 16, in pairs",
    )
    parser.add_argument(
        "--steps",
        type=count,
        default=10,
        metavar="N",
        help="images in a row, reconstructions included; default: %(default)s",
    )
