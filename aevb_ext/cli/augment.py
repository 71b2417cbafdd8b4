"""``aevb augment``."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import plots
from ..bar import bar
from ..data import Data, Rows, chunks, first
from ..models import VAE
from ..noise import keys_at
from ..uses import writing_npz
from . import again
from .config import count
from .files import file_to_write
from .pictures import write_picture

__all__ = ["add"]

_ROWS = 500
# Of a picture: so many data points, and at most so many variants of each.
_POINTS, _VARIANTS = 10, 9


def add(verbs) -> None:
    """The verb."""
    parser = verbs.add_parser(
        "augment",
        help="variants of data points: encoded, perturbed, decoded",
        description="Writes the arrays train (the variants, those of one data point after another, pixels from 0 to "
        "1), index (of which data point each is one) and, where they are known, labels. `aevb train --data FILE.npz` "
        "trains on them. Of images there is a picture too, FILE.png: data points, and beside each its variants.",
    )
    parser.set_defaults(run=_augment)
    again.add_uses_flags(parser, "train")
    parser.add_argument("--out", required=True, type=file_to_write(".npz"), metavar="FILE.npz", help="what to write")
    parser.add_argument("--n", type=count, default=5, help="variants of each data point; default: %(default)s")
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=1.0,
        metavar="T",
        help="what the posterior's standard deviation is multiplied by: 0 for reconstructions; default: %(default)s",
    )


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text}")
    return value


def _augment(a) -> None:
    out = Path(a.out)
    model, data = again.encoder_and_data(a)
    x, labels = data.split(a.split)
    index = torch.arange(len(x)).repeat_interleave(a.n)
    with writing_npz(out) as write:
        write("train", _variants(model, data, x, a), len(index))
        write("index", [index], len(index))
        if labels is not None:
            write("labels", [labels[index]], len(index))
    print(f"written to {out}: {len(index)} variants of {len(x)} data points")
    if data.image_shape is not None:
        few = first(x, _POINTS, next(model.parameters()).device, lambda index: _data_keys(a, index))
        canvas = plots.variants(model, few, data.image_shape, min(a.n, _VARIANTS), a.temperature, a.seed)
        write_picture(out.with_suffix(".png"), canvas)


def _variants(model: VAE, data: Data, x: Tensor | Rows, a) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    parts = torch.arange(len(x)).split(_ROWS)
    batches = chunks(x, _ROWS, device, lambda index: _data_keys(a, index))
    with bar("augmenting", len(x)) as told:
        for index, batch in zip(parts, batches, strict=True):
            key = keys_at(a.seed, "augmentation", index).to(device)
            found = (
                model.augment(batch, n_samples=a.n, temperature=a.temperature, key=key).transpose(0, 1).flatten(0, 1)
            )
            yield found.reshape(-1, *(data.image_shape or found.shape[1:])).cpu()
            told(int(index[-1]) + 1)


def _data_keys(a, index: Tensor) -> Tensor:
    """Of data that is drawn."""
    return keys_at(a.seed, "evaluation binarize", index)
