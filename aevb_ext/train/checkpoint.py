"""Checkpoints: a model and where it came from, in one file that is whole or absent."""

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from .._files import atomic_write
from ..models import VAE, make_model

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "aevb_ext checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: the VAE, on the CPU.
        data: the name of the data set that it was trained on.
        image_shape: of that data set.
        samples_seen: how many training data points had been evaluated.
    """

    model: VAE
    data: str
    image_shape: tuple[int, int] | None
    samples_seen: int


def save_checkpoint(path, model: VAE, *, data: str, image_shape=None, samples_seen: int = 0) -> None:
    """Write a checkpoint to ``path``, replacing what is there only once the new file is whole."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "model": model.config,
        "state": state,
        "data": data,
        "image_shape": image_shape,
        "samples_seen": samples_seen,
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def load_checkpoint(path, model: VAE | None = None) -> Checkpoint:
    """Read a checkpoint. Nothing in the file is executed.

    Args:
        path: the file.
        model: the model to load into, made by hand and of the same shape. Default: the paper's model, built as the
            checkpoint says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is not a checkpoint of this package, or is one of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        # torch.load does not look at the checksums that torch.save wrote.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is truncated, damaged or not a checkpoint: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} is not a checkpoint of this package: its format is {found!r}, expected {FORMAT!r}")
    config = content["model"]
    if model is None:
        if config is None:
            raise ValueError(f"{path} is of a model made by hand: give load_checkpoint such a model to load it into")
        model = make_model(**config)
    # Before there were others, a config did not say that it was the paper's.
    elif model.config != (config and {"architecture": "mlp"} | config):
        raise ValueError(f"{path} is of another model: it has {config}, the model given has {model.config}")
    try:
        model.load_state_dict(content["state"])
    except RuntimeError as error:
        raise ValueError(f"{path} is of another model: {error}") from None
    shape = content["image_shape"]
    return Checkpoint(model, content["data"], shape and tuple(shape), content["samples_seen"])
