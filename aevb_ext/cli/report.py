"""HTML reports: ``aevb report`` and ``aevb compare``."""

import argparse
from pathlib import Path

from .._files import write_whole
from ..report import compare, comparison, report
from ..train import load_checkpoint
from ..train.saved_run import open_run
from . import common
from .common import Subcommands, file_to_write

__all__ = ["add"]


def add(subcommands: Subcommands) -> None:
    """Add the subcommands."""
    parser = subcommands.add_parser("report", help="an HTML page about a run")
    parser.set_defaults(run=_report)
    parser.add_argument("checkpoint", metavar="RUN", help="the folder of a run, or one of its checkpoints")
    common.add_data_flags(parser)
    parser.add_argument(
        "--out", type=file_to_write(".html"), metavar="FILE.html", help="default: report.html in the run's folder"
    )

    parser = subcommands.add_parser("compare", help="a table of runs")
    parser.set_defaults(run=_compare)
    parser.add_argument("folders", metavar="RUN", nargs="+", help="folders of runs")
    parser.add_argument(
        "--out", type=file_to_write(".html"), metavar="FILE.html", help="also write a page, with their curves"
    )


def _report(a: argparse.Namespace) -> None:
    run = open_run(a.checkpoint)
    model = data = None
    missing = "There is no checkpoint yet: pictures and latent dimensions are left out."
    if run.checkpoint is not None:
        try:
            checkpoint = load_checkpoint(run.checkpoint)
            model, data = checkpoint.model, common.data_of(a, run.config, checkpoint)
        except (FileNotFoundError, ValueError) as error:
            model = data = None
            missing = f"Pictures and latent dimensions are left out: {error}"
    out = Path(a.out) if a.out else run.folder / "report.html"
    write_whole(out, report(run, model, data, missing).encode())
    if model is None:
        print(missing)
    print(f"written to {out}")


def _compare(a: argparse.Namespace) -> None:
    runs = [open_run(folder) for folder in a.folders]
    header, rows = comparison(runs)
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if a.out:
        write_whole(a.out, compare(runs).encode())
        print(f"written to {a.out}")
