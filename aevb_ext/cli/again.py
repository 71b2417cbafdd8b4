"""A run's model and data, loaded again."""

import argparse
from pathlib import Path

from ..data import SPLITS, Data
from ..learners import LEARNERS
from ..models import VAE
from ..runs import CONFIG, folder_of, open_run
from ..train import Checkpoint, Processes, Settings, load_checkpoint
from .config import DATA, of_kind, whole
from .made import data_of_keys
from .train import default_device

__all__ = [
    "add_flags",
    "add_run",
    "add_uses_flags",
    "data_of",
    "encoder_and_data",
    "learner_without_encoder",
    "model_and_data",
    "setting",
]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Whose model it is."""
    parser.add_argument("checkpoint", metavar="RUN", help="the folder of a run (its best model), or a checkpoint")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where the data is now; by default it is where the run found it."""
    parser.add_argument("--data", metavar="PATH", help="the files of one's own that it was trained on, if they moved")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of named data are, if they moved")


def add_uses_flags(parser: argparse.ArgumentParser, split: str) -> None:
    """What every verb takes that lets a model see data: the run, the data, which split by default, noise and device."""
    add_run(parser)
    add_flags(parser)
    parser.add_argument("--split", choices=SPLITS, default=split, help="default: %(default)s")
    parser.add_argument("--seed", type=whole, default=0, help="of the noise; default: %(default)s")
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def model_and_data(a: argparse.Namespace) -> tuple[VAE, Data]:
    """The model, as it is evaluated, and what it was trained on, both on the device, as the flags say.

    Raises:
        FileNotFoundError, ValueError: as :func:`~aevb_ext.train.load_checkpoint` and :func:`data_of` do.
    """
    checkpoint = load_checkpoint(a.checkpoint)
    try:
        config = open_run(a.checkpoint).config
    except FileNotFoundError:
        # A checkpoint that was taken out of its run's folder.
        config = {"data": checkpoint.data}
    data = data_of(a, config, checkpoint)
    device = Processes().device(default_device() if a.device is None else a.device)
    return checkpoint.model.to(device).eval(), data.to(device)


def encoder_and_data(a: argparse.Namespace) -> tuple[VAE, Data]:
    """What :func:`model_and_data` gives, of a run whose encoder has learnt.

    Raises:
        ValueError: the learner of the run trains none.
    """
    if learner := learner_without_encoder(a.checkpoint):
        raise ValueError(f"{a.checkpoint} was trained by {learner}, which trains no encoder: this needs one")
    return model_and_data(a)


def learner_without_encoder(path) -> str | None:
    """The learner of a run, if it trains no encoder; of a checkpoint out of its run's folder nobody knows."""
    learner = setting(path, "learner")
    return learner if learner in LEARNERS and not LEARNERS[learner].ENCODES else None


def setting(path, name: str):
    """A setting of a run; of a checkpoint out of its run's folder the default."""
    try:
        return open_run(path).config.get(name, getattr(Settings, name))
    except FileNotFoundError:
        return getattr(Settings, name)


def data_of(a: argparse.Namespace, config: dict, checkpoint: Checkpoint) -> Data:
    """What a run was trained on, as its configuration says and with these flags.

    Raises:
        FileNotFoundError: it is not there any more; says which flag helps.
        ValueError: it is damaged, was not made by :func:`~aevb_ext.data.load`, or is not what the checkpoint is of.
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
            f"the run was on data with (image_shape, x_scale) = {expected}, and {data.name} as it is loaded now has "
            f"{found}: is it the same, and is the config.toml of the run beside its checkpoint, to say how to load it?"
        )
    return data
