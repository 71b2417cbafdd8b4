"""What the keys of a run make."""

import sys
from dataclasses import replace

import torch

from .. import data as datasets
from ..data import Data
from ..models import VAE, make_model
from ..train import Settings
from .config import DATA, MODEL, SETTINGS

__all__ = ["data_of_keys", "model_of_keys", "settings_of_keys"]


def data_of_keys(keys: dict) -> Data:
    """The data of these keys. What was found in files of one's own is told on stderr."""
    data = datasets.load(keys["data"], **{key: keys[key] for key in DATA if key in keys and key != "data"})
    if data.description:
        print(data.description, file=sys.stderr, flush=True)
    return data


def settings_of_keys(keys: dict, data: Data) -> Settings:
    """The settings; of a length in epochs, as many samples as those are."""
    settings = Settings(**{key: keys[key] for key in SETTINGS if key in keys})
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
    """A new model of the data, whose initial parameters are those of the seed."""
    return make_model(
        x_dim=data.dim,
        image_shape=data.image_shape,
        x_scale=data.x_scale,
        generator=torch.Generator().manual_seed(seed),
        **{key: keys[key] for key in MODEL if key in keys},
    )
