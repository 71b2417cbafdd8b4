"""``aevb paper`` and ``aevb factor-analysis``."""

import argparse
from pathlib import Path

from ...factor_analysis import compare, simulated, table
from ...paper import make

__all__ = ["factor_analysis", "paper"]


def paper(a: argparse.Namespace) -> int:
    """Train the runs of a figure, and draw it."""
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


def factor_analysis(a: argparse.Namespace) -> None:
    """Compare AEVB with coordinate ascent on simulated data."""
    x = simulated(a.n, a.x_dim, a.latent, a.seed)
    print(table(compare(x, a.latent, samples_seen=a.samples_seen, seed=a.seed)))
