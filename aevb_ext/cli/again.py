"""The data of a run, loaded again."""

import argparse

from .. import data as datasets
from ..data import Data
from ..train import Checkpoint
from .config import DATA

__all__ = ["add_flags", "data_of"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where the data is now; by default it is where the run found it."""
    parser.add_argument("--data", metavar="PATH", help="the files of one's own that it was trained on, if they moved")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of named data are, if they moved")


def data_of(a: argparse.Namespace, config: dict, checkpoint: Checkpoint) -> Data:
    """What a run was trained on, as its configuration says and with these flags.

    Raises:
        FileNotFoundError: it is not there any more; says which flag helps.
        ValueError: it is damaged, was not made by :func:`~aevb_ext.data.load`, or is not what the checkpoint is of.
    """
    options = {key: config[key] for key in DATA if key in config}
    options |= {key: given for key in ("data", "data_dir") if (given := getattr(a, key)) is not None}
    data = datasets.load(options.pop("data"), **options)
    found, expected = (data.image_shape, data.x_scale), (checkpoint.image_shape, checkpoint.model.x_scale)
    if found != expected:
        raise ValueError(
            f"the run was on data with (image_shape, x_scale) = {expected}, and {data.name} as it is loaded now has "
            f"{found}: is it the same, and is the config.toml of the run beside its checkpoint, to say how to load it?"
        )
    return data
