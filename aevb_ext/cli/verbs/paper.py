"""The experiments: ``aevb paper`` and ``aevb factor-analysis``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...configuration.choices import FIGURES
from ...configuration.datasets import check_there
from ..parser import Verbs, command
from ..values import count
from .arguments import add_seed

__all__ = ["add"]


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    parser = verbs.add(
        "paper",
        "reproduce a figure: train, draw, compare it with the paper",
        run=command("experiments", "paper"),
        check=_check_paper,
        example="aevb paper figure4 --quick --data-dir DATA",
        description="; ".join(f"{name}: {_subject(figure.title)}" for name, figure in FIGURES.items()) + ".",
    )
    parser.add_argument("figure", choices=FIGURES, metavar="FIGURE", help=f"which: {', '.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="a budget that is spent within 15 minutes on two cores")
    parser.add_argument(
        "--samples-seen", type=count, metavar="N", help="the budget: training samples of each curve; default: 1e7"
    )
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="seeds of each curve; default: %(default)s")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of MNIST and Frey Face are")
    parser.add_argument(
        "--out", default="paper", metavar="DIR", help="for the figure, its values and the runs; default: %(default)s"
    )
    parser.add_argument("--workers", type=count, metavar="N", help="runs trained at a time; default: one for each core")

    parser = verbs.add(
        "factor-analysis",
        "compare AEVB with coordinate ascent and the exact log p(x)",
        run=command("experiments", "factor_analysis"),
        example="aevb factor-analysis --n 200 --latent 2 --samples-seen 2e4",
        description="Simulates linear-Gaussian factor analysis, and compares the bounds of coordinate-ascent "
        "variational inference and of AEVB with the exact log marginal likelihood, in nats "
        "(docs/factor-analysis.md).",
    )
    parser.add_argument("--n", type=count, default=1000, help="data points; default: %(default)s")
    parser.add_argument("--x-dim", type=count, default=10, metavar="N", help="features; default: %(default)s")
    parser.add_argument("--latent", type=count, default=3, metavar="N", help="latent dimensions; default: %(default)s")
    parser.add_argument(
        "--samples-seen",
        type=count,
        default=500_000,
        metavar="N",
        help="training length of each AEVB run; default: %(default)s",
    )
    add_seed(parser, of="")


def _subject(title: str) -> str:
    """Of "Figure 2: the lower bound" the lower bound."""
    subject = title.rpartition(": ")[2]
    return subject[0].lower() + subject[1:]


def _check_paper(a: argparse.Namespace) -> None:
    # Runs that are trained already need no data.
    if not (Path(a.out) / "runs").is_dir():
        for name in FIGURES[a.figure].data:
            check_there(name, a.data_dir)
