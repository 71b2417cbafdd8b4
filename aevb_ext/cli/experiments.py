"""``aevb paper`` and ``aevb factor-analysis``."""

import argparse
from pathlib import Path

from ..factor_analysis import compare, simulated, table
from ..paper import FIGURES, make
from .common import Subcommands
from .config import count, whole

__all__ = ["add_factor_analysis", "add_paper"]


def add_paper(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "paper",
        help="reproduce a figure of the paper: train its runs, draw it, compare it with the paper",
        description="; ".join(f"{name}: {figure.TITLE.removeprefix(name.title())}" for name, figure in FIGURES.items()),
    )
    parser.set_defaults(run=_paper)
    parser.add_argument("figure", choices=FIGURES, help="which")
    parser.add_argument("--quick", action="store_true", help="a budget that is spent within 15 minutes on two cores")
    parser.add_argument(
        "--samples-seen", type=count, metavar="N", help="the budget: training samples of each curve; default: 1e7"
    )
    parser.add_argument("--seeds", type=count, default=1, help="seeds of each curve; default: %(default)s")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of MNIST and Frey Face are")
    parser.add_argument(
        "--out", default="paper", metavar="DIR", help="for the figure, its values and the runs; default: %(default)s"
    )
    parser.add_argument("--workers", type=count, metavar="N", help="runs trained at a time; default: one for each core")


def _paper(a: argparse.Namespace) -> int:
    failed = make(
        a.figure,
        a.out,
        data_dir=a.data_dir,
        samples_seen=a.samples_seen,
        seeds=a.seeds,
        quick=a.quick,
        workers=a.workers,
    )
    for name, said in failed.items():
        print(f"{name} failed: {said}")
    written = sorted(path.name for path in Path(a.out).glob(f"{a.figure}.*"))
    print(f"written to {a.out}: {', '.join(written)}" if written else "there is nothing to draw")
    return 1 if failed else 0


def add_factor_analysis(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "factor-analysis",
        help="compare AEVB with coordinate ascent and the exact log p(x)",
        description="Simulates linear-Gaussian factor analysis, and compares the bounds of coordinate-ascent "
        "variational inference and of AEVB with the exact log marginal likelihood, in nats "
        "(docs/factor-analysis.md).",
    )
    parser.set_defaults(run=_factor_analysis)
    parser.add_argument("--n", type=count, default=1000, help="data points; default: %(default)s")
    parser.add_argument("--x-dim", type=count, default=10, help="features; default: %(default)s")
    parser.add_argument("--latent", type=count, default=3, help="latent dimensions; default: %(default)s")
    parser.add_argument(
        "--samples-seen", type=count, default=500_000, help="training length of each AEVB run; default: %(default)s"
    )
    parser.add_argument("--seed", type=whole, default=0, help="default: %(default)s")


def _factor_analysis(a: argparse.Namespace) -> None:
    x = simulated(a.n, a.x_dim, a.latent, a.seed)
    print(table(compare(x, a.latent, samples_seen=a.samples_seen, seed=a.seed)))
