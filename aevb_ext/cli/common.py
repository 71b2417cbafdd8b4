"""What subcommands share: the run and its data, files to write, pictures."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import plots
from .._files import write_whole
from .._library import build_info
from .._types import StrPath
from ..data import SPLITS, Data
from ..learners import LEARNERS
from ..models import VAE
from ..train import Checkpoint, Processes, Settings, load_checkpoint
from ..train.saved_run import CONFIG, folder_of, read_run_config
from .config import DATA, data_of_keys, of_kind, whole

__all__ = [
    "Subcommands",
    "add_data_flags",
    "add_run",
    "add_uses_flags",
    "checked_shape",
    "data_of",
    "default_device",
    "encoder_and_data",
    "file_to_write",
    "learner_without_encoder",
    "model_and_data",
    "setting",
    "write_picture",
]

Subcommands: TypeAlias = "argparse._SubParsersAction[Any]"


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN."""
    parser.add_argument("checkpoint", metavar="RUN", help="the folder of a run (its best model), or a checkpoint")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that say where the data is now; by default it is where the run found it."""
    parser.add_argument("--data", metavar="PATH", help="your own files that it was trained on, if they moved")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of named data are, if they moved")


def add_uses_flags(parser: argparse.ArgumentParser, split: str) -> None:
    """Add the arguments of every subcommand that runs a model on data: run, data, split, seed and device."""
    add_run(parser)
    add_data_flags(parser)
    parser.add_argument("--split", choices=SPLITS, default=split, help="default: %(default)s")
    parser.add_argument("--seed", type=whole, default=0, help="of the noise; default: %(default)s")
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def model_and_data(a: argparse.Namespace) -> tuple[VAE, Data]:
    """The model in evaluation mode and the data it was trained on, both on the device, as the flags say.

    Raises:
        FileNotFoundError, ValueError: as :func:`~aevb_ext.train.load_checkpoint` and :func:`data_of` do.
    """
    checkpoint = load_checkpoint(a.checkpoint)
    try:
        config = read_run_config(a.checkpoint)
    except FileNotFoundError:
        # The checkpoint was moved out of its run's folder.
        config = {"data": checkpoint.data}
    data = data_of(a, config, checkpoint)
    device = Processes().device(default_device() if a.device is None else a.device)
    return checkpoint.model.to(device).eval(), data.to(device)


def encoder_and_data(a: argparse.Namespace) -> tuple[VAE, Data]:
    """The same as :func:`model_and_data`, of a run whose encoder was trained.

    Raises:
        ValueError: the learner of the run trains no encoder.
    """
    if learner := learner_without_encoder(a.checkpoint):
        raise ValueError(f"{a.checkpoint} was trained by {learner}, which trains no encoder: this command needs one")
    return model_and_data(a)


def learner_without_encoder(path: StrPath) -> str | None:
    """The learner of a run if it trains no encoder, else None; None too for a checkpoint outside its run's folder."""
    learner = setting(path, "learner")
    return learner if learner in LEARNERS and not LEARNERS[learner].ENCODES else None


def setting(path: StrPath, name: str) -> Any:
    """A setting of a run; for a checkpoint outside its run's folder, the default."""
    try:
        return read_run_config(path).get(name, getattr(Settings, name))
    except FileNotFoundError:
        return getattr(Settings, name)


def data_of(a: argparse.Namespace, config: dict, checkpoint: Checkpoint) -> Data:
    """The data that a run was trained on, loaded as its configuration and these flags say.

    Raises:
        FileNotFoundError: the data has moved; the message says which flag helps.
        ValueError: the data is damaged, was not made by :func:`~aevb_ext.data.load`, or does not fit the checkpoint.
    """
    where = folder_of(Path(a.checkpoint)) / CONFIG
    options = {key: of_kind(where, key, config[key]) for key in DATA if key in config}
    options |= {key: given for key in ("data", "data_dir") if (given := getattr(a, key)) is not None}
    try:
        data = data_of_keys(options)
    except ValueError as error:
        name = str(error).partition(" ")[0]
        if name in config and getattr(a, name, None) is None:
            raise ValueError(f"{where}: {error}") from None
        raise
    found, expected = (data.image_shape, data.x_scale), (checkpoint.image_shape, checkpoint.model.x_scale)
    if found != expected:
        raise ValueError(
            f"the run was trained on data with (image_shape, x_scale) = {expected}, and {data.name} as it is loaded "
            f"now has {found}: is it the same data, and is the run's config.toml, which says how to load it, still "
            "beside its checkpoint?"
        )
    return data


def file_to_write(*suffixes: str) -> Callable[[str], str]:
    """An argparse type: the path of a file with one of these suffixes, in a folder that exists."""

    def path(text: str) -> str:
        found = Path(text)
        if found.suffix.lower() not in suffixes:
            kinds = " or ".join(f"FILE{suffix}" for suffix in suffixes)
            raise argparse.ArgumentTypeError(f"expected {kinds}, got {text!r}")
        try:
            if found.is_dir():
                raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file to write")
            if not found.parent.is_dir():
                raise argparse.ArgumentTypeError(f"there is no folder {found.parent} to write {found.name} into")
        except (OSError, ValueError) as error:
            # The name is too long, or has a null character in it.
            raise argparse.ArgumentTypeError(f"{text!r} cannot be a file: {error}") from None
        return text

    return path


def checked_shape(image_shape: tuple[int, ...] | None, name: str) -> tuple[int, ...]:
    """``image_shape``, if it is not None.

    Raises:
        ValueError: the data points of the dataset ``name`` are not images.
    """
    if image_shape is None:
        raise ValueError(f"the model was trained on {name}, whose data points are not images")
    return image_shape


def write_picture(path: StrPath, canvas: Tensor) -> None:
    """Write a canvas as a PNG, and print that.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    write_whole(path, plots.png(canvas))
    print(f"written to {path}")


def default_device() -> str:
    """``"cuda"`` if both this machine and the compiled library have it, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() and build_info()["cuda"] else "cpu"
