"""Generating data with a model: ``aevb sample``, ``augment``, ``manifold`` and ``interpolate``."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import plots
from ..data import Data, Rows, chunks, first, rows_of
from ..models import VAE
from ..noise import keys_at
from ..progress_bar import bar
from ..train import Checkpoint, load_checkpoint
from ..uses import write_npy, writing_npz
from . import common
from .common import Subcommands, checked_shape, file_to_write, write_picture
from .config import count, whole

__all__ = ["add_augment", "add_latent_space", "add_sample"]

_SAMPLES_AT_ONCE = 1000


def add_sample(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "sample",
        help="generate new data points with a checkpoint's model: a picture, arrays",
        description="z is drawn from the prior; x is the mean of p(x | z), or drawn from it. Pixels are from 0 to 1.",
    )
    parser.set_defaults(run=_sample)
    common.add_run(parser)
    parser.add_argument(
        "--out",
        required=True,
        action="append",
        type=file_to_write(".png", ".npy", ".npz"),
        metavar="FILE",
        help="what to write: a picture (FILE.png), or an array (FILE.npy, or x in FILE.npz); may be repeated",
    )
    parser.add_argument("--n", type=count, default=100, help="how many samples; default: %(default)s")
    parser.add_argument("--sampled", action="store_true", help="draw x from p(x | z); default: its mean")
    parser.add_argument("--seed", type=whole, default=0, help="default: %(default)s")


def _sample(a: argparse.Namespace) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    for out in map(Path, a.out):
        if out.suffix.lower() == ".npy":
            write_npy(out, _blocks(a, checkpoint), a.n)
        elif out.suffix.lower() == ".npz":
            with writing_npz(out) as write:
                write("x", _blocks(a, checkpoint), a.n)
        else:
            shape = checked_shape(checkpoint.image_shape, checkpoint.data)
            write_picture(out, plots.samples(checkpoint.model.eval(), shape, a.n, a.seed, sampled=a.sampled))
            continue
        print(f"written to {out}")


def _blocks(a: argparse.Namespace, checkpoint: Checkpoint) -> Iterator[Tensor]:
    model = checkpoint.model.eval()
    with bar("sampling", a.n) as told:
        for index in torch.arange(a.n).split(_SAMPLES_AT_ONCE):
            x = model.generate(len(index), sampled=a.sampled, key=keys_at(a.seed, "generation", index))
            yield x.reshape(-1, *(checkpoint.image_shape or x.shape[1:]))
            told(int(index[-1]) + 1)


_POINTS_AT_ONCE = 500
# The most data points in a picture, and variants of each.
_POINTS, _VARIANTS = 10, 9


def add_augment(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "augment",
        help="augment data: encode data points, perturb them in latent space, decode them",
        description="Writes the arrays train (all variants of the first data point, then of the next, pixels from 0 "
        "to 1), index (the data point of each variant) and, if they are known, labels. `aevb train --data FILE.npz` "
        "trains on them. For images it also writes a picture, FILE.png: data points, each beside its variants.",
    )
    parser.set_defaults(run=_augment)
    common.add_uses_flags(parser, "train")
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


def _augment(a: argparse.Namespace) -> None:
    out = Path(a.out)
    model, data = common.encoder_and_data(a)
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


def _variants(model: VAE, data: Data, x: Tensor | Rows, a: argparse.Namespace) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    parts = torch.arange(len(x)).split(_POINTS_AT_ONCE)
    batches = chunks(x, _POINTS_AT_ONCE, device, lambda index: _data_keys(a, index))
    with bar("augmenting", len(x)) as told:
        for index, batch in zip(parts, batches, strict=True):
            key = keys_at(a.seed, "augmentation", index).to(device)
            found = (
                model.augment(batch, n_samples=a.n, temperature=a.temperature, key=key).transpose(0, 1).flatten(0, 1)
            )
            yield found.reshape(-1, *(data.image_shape or found.shape[1:])).cpu()
            told(int(index[-1]) + 1)


def _data_keys(a: argparse.Namespace, index: Tensor) -> Tensor:
    """Noise keys for data that is drawn (dynamic binarisation)."""
    return keys_at(a.seed, "evaluation binarize", index)


def add_latent_space(subcommands: Subcommands) -> None:
    """Add the subcommands."""
    parser = subcommands.add_parser(
        "manifold",
        help="a picture of a plane through latent space",
        description="Two dimensions of z vary, each through the quantiles of its prior; the others are 0.",
    )
    parser.set_defaults(run=_manifold)
    common.add_run(parser)
    parser.add_argument(
        "--out", required=True, type=file_to_write(".png"), metavar="FILE.png", help="the picture to write"
    )
    parser.add_argument("--side", type=count, default=20, help="images along each side; default: %(default)s")
    parser.add_argument(
        "--dims", type=whole, nargs=2, metavar="I", help="which two of more dimensions, counted from 0: right, up"
    )

    parser = subcommands.add_parser(
        "interpolate",
        help="a picture of interpolations between data points",
        description="A row for each pair of data points: the first one, its reconstruction, decoded points on the "
        "line between the two posterior means, the reconstruction of the second one, the second one.",
    )
    parser.set_defaults(run=_interpolate)
    common.add_uses_flags(parser, "test")
    parser.add_argument(
        "--out", required=True, type=file_to_write(".png"), metavar="FILE.png", help="the picture to write"
    )
    parser.add_argument(
        "--pair",
        type=whole,
        nargs=2,
        action="append",
        metavar="I",
        help="the indices of two data points; may be repeated; default: the first 16, in pairs",
    )
    parser.add_argument(
        "--steps", type=count, default=10, help="images in a row, reconstructions included; default: %(default)s"
    )


def _manifold(a: argparse.Namespace) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    shape = checked_shape(checkpoint.image_shape, checkpoint.data)
    write_picture(a.out, plots.manifold(checkpoint.model.eval(), shape, a.side, a.dims))


def _interpolate(a: argparse.Namespace) -> None:
    model, data = common.encoder_and_data(a)
    shape = checked_shape(data.image_shape, data.name)
    rows = rows_of(data.split(a.split)[0])
    pairs = a.pair or [[i, i + 1] for i in range(0, min(16, len(rows)) - 1, 2)]
    if outside := [i for pair in pairs for i in pair if not 0 <= i < len(rows)]:
        raise ValueError(f"--pair: the {a.split} split has the data points 0 to {len(rows) - 1}, got {outside[0]}")
    pairs = torch.tensor(pairs)
    keys = keys_at(a.seed, "evaluation binarize", pairs)
    device = next(model.parameters()).device
    x, y = (
        rows.gather(numbers.to(rows.device), key.to(rows.device)).to(device)
        for numbers, key in zip(pairs.unbind(1), keys.unbind(1), strict=True)
    )
    write_picture(a.out, plots.interpolations(model, x, y, shape, a.steps))
