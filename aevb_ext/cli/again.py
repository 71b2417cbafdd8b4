"""The data of a run, loaded again."""

import argparse

from .. import data as datasets
from ..data import Data
from .config import DATA

__all__ = ["add_flags", "data_of"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where the data is now; by default it is where the run found it."""
    parser.add_argument("--data", metavar="PATH", help="the files of one's own that it was trained on, if they moved")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of named data are, if they moved")


def data_of(a: argparse.Namespace, config: dict) -> Data:
    """What a run was trained on, as its configuration says and with these flags.

    Raises:
        FileNotFoundError: it is not there any more; says which flag helps.
        ValueError: it is damaged, or was not made by :func:`~aevb_ext.data.load`.
    """
    options = {key: config[key] for key in DATA if key in config}
    options |= {key: given for key in ("data", "data_dir") if (given := getattr(a, key)) is not None}
    return datasets.load(options.pop("data"), **options)
