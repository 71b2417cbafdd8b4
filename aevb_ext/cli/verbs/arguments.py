"""Arguments that several verbs take."""

from __future__ import annotations

import argparse

from ...configuration.choices import SPLITS
from ..values import file_to_write, whole

__all__ = ["add_data_flags", "add_device", "add_out", "add_run", "add_seed", "add_uses_flags"]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN."""
    parser.add_argument("checkpoint", metavar="RUN", help="the folder of a run (its best model), or a checkpoint")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that say where the data is now; by default it is where the run found it."""
    parser.add_argument("--data", metavar="PATH", help="your own files that it was trained on, if they moved")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of named data are, if they moved")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the flag --device."""
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def add_seed(parser: argparse.ArgumentParser, of: str = "of the noise; ") -> None:
    """Add the flag --seed."""
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help=f"{of}default: %(default)s")


def add_out(parser: argparse.ArgumentParser, *suffixes: str, what: str = "what to write") -> None:
    """Add the required flag --out of a file with one of these suffixes."""
    metavar = f"FILE{suffixes[0]}" if len(suffixes) == 1 else "FILE"
    parser.add_argument("--out", required=True, type=file_to_write(*suffixes), metavar=metavar, help=what)


def add_uses_flags(parser: argparse.ArgumentParser, split: str) -> None:
    """Add the arguments of every verb that runs a model on data: run, data, split, seed and device."""
    add_run(parser)
    add_data_flags(parser)
    parser.add_argument("--split", choices=SPLITS, default=split, help="default: %(default)s")
    add_seed(parser)
    add_device(parser)
