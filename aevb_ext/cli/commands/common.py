"""What commands share: the run and its data, the objects made of keys, pictures."""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import data as datasets
from ... import plots
from ..._files import write_whole
from ..._library import build_info
from ..._types import StrPath
from ...configuration.choices import COUNT_LIKELIHOODS
from ...configuration.saved_run import read_run_config
from ...data import Data, Rows, chunks
from ...data.prefetch import chunk_size
from ...models import VAE, make_model
from ...noise import keys_at
from ...train import Checkpoint, Processes, Settings, load_checkpoint
from ..checks import with_data_keys
from ..config import DATA, MODEL, known_settings

__all__ = [
    "checked_shape",
    "data_of",
    "data_of_keys",
    "default_device",
    "model_and_data",
    "model_of_keys",
    "settings_of_keys",
    "write_picture",
]


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


def data_of(a: argparse.Namespace, config: dict, checkpoint: Checkpoint) -> Data:
    """The data that a run was trained on, loaded as its configuration and these flags say.

    Raises:
        FileNotFoundError: the data has moved; the message says which flag helps.
        ValueError: the data is damaged, was not made by :func:`~aevb_ext.data.load`, or does not fit the checkpoint.
    """
    data = with_data_keys(a, config, data_of_keys)
    found, expected = (data.image_shape, data.x_scale), (checkpoint.image_shape, checkpoint.model.x_scale)
    if found != expected:
        raise ValueError(
            f"the run was trained on data with (image_shape, x_scale) = {expected}, and {data.name} as it is loaded "
            f"now has {found}: is it the same data, and is the run's config.toml, which says how to load it, still "
            "beside its checkpoint?"
        )
    return data


def data_of_keys(keys: dict) -> Data:
    """The data of these keys. What was found in the user's own files is printed on stderr."""
    data = datasets.load(keys["data"], **{key: keys[key] for key in DATA if key in keys and key != "data"})
    if data.description:
        print(data.description, file=sys.stderr, flush=True)
    return data


def settings_of_keys(keys: dict, data: Data) -> Settings:
    """The settings; ``epochs`` becomes the same length as ``samples_seen``."""
    settings = known_settings(keys)
    if "epochs" not in keys:
        return settings
    each = settings.samples_per_step / settings.batch_size
    samples = keys["epochs"] * len(data.train) * each
    if not 0.5 < samples < 1 << 63:
        raise ValueError(
            f"epochs must come to one data point at least, and fewer than 2**63, got {keys['epochs']} of "
            f"{len(data.train)} data points"
        )
    return replace(settings, samples_seen=round(samples))


def model_of_keys(keys: dict, data: Data, seed: int) -> VAE:
    """A new model of the data; its initial parameters depend on the seed alone."""
    return make_model(
        x_dim=data.dim,
        image_shape=data.image_shape,
        x_scale=data.x_scale,
        generator=torch.Generator().manual_seed(seed),
        **{key: keys[key] for key in MODEL if key in keys},
        **_of_data(data, keys.get("likelihood")),
    )


# More classes are taken for a mistake.
_CLASSES = 1 << 16


def _of_data(data: Data, likelihood: str | None) -> dict[str, Any]:
    """What a model with this likelihood has to know of the data: the mean sum of a data point, or how many classes.

    Numbers that the likelihood does not take are refused later, by the check of the data.
    """
    if likelihood in COUNT_LIKELIHOODS:
        total = sum(x.sum(dtype=torch.float64).item() for x in _chunked(data.train)) * data.x_scale
        mean = total / len(data.train)
        return {"library_size": mean if 0 < mean < math.inf else 1.0}
    if likelihood == "categorical":
        splits = [split for split in (data.train, data.test, data.valid) if split is not None]
        largest = max(x.max().item() for split in splits for x in _chunked(split)) * data.x_scale
        if largest >= _CLASSES:
            raise ValueError(
                f"{data.name} goes up to {largest:.8g}, expected numbers of classes, from 0 on: fewer than {_CLASSES}"
            )
        return {"classes": int(largest) + 1 if largest > 0 else 1}
    return {}


def _chunked(split: Tensor | Rows) -> Iterator[Tensor]:
    return chunks(split, chunk_size(split), keys=lambda index: keys_at(0, "evaluation binarize", index))


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
