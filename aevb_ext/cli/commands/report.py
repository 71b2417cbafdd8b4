"""HTML reports: ``aevb report`` and ``aevb compare``."""

import argparse
from pathlib import Path

from ... import report as pages
from ..._files import write_whole
from ...configuration.saved_run import open_run
from ...train import load_checkpoint
from .common import data_of

__all__ = ["compare", "report"]


def report(a: argparse.Namespace) -> None:
    """Write the page of a run."""
    run = open_run(a.checkpoint)
    model = data = None
    missing = "There is no checkpoint yet: pictures and latent dimensions are left out."
    if run.checkpoint is not None:
        try:
            checkpoint = load_checkpoint(run.checkpoint)
            model, data = checkpoint.model, data_of(a, run.config, checkpoint)
        except (FileNotFoundError, ValueError) as error:
            model = data = None
            missing = f"Pictures and latent dimensions are left out: {error}"
    out = Path(a.out) if a.out else run.folder / "report.html"
    write_whole(out, pages.report(run, model, data, missing).encode())
    if model is None:
        print(missing)
    print(f"written to {out}")


def compare(a: argparse.Namespace) -> None:
    """Print the table of runs, and write their page."""
    runs = [open_run(folder) for folder in a.folders]
    header, rows = pages.comparison(runs)
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if a.out:
        write_whole(a.out, pages.compare(runs).encode())
        print(f"written to {a.out}")
