"""Generating data with a model: ``aevb sample``, ``augment``, ``manifold`` and ``interpolate``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ... import plots
from ...data import Data, Rows, chunks, first, rows_of
from ...models import VAE
from ...noise import keys_at
from ...progress_bar import bar
from ...train import Checkpoint, load_checkpoint
from ...uses import write_npy, writing_npz
from .common import checked_shape, model_and_data, write_picture

__all__ = ["augment", "interpolate", "manifold", "sample"]

_SAMPLES_AT_ONCE = 1000


def sample(a: argparse.Namespace) -> None:
    """Write data points drawn from the model."""
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


def augment(a: argparse.Namespace) -> None:
    """Write variants of the data points of a split."""
    out = Path(a.out)
    model, data = model_and_data(a)
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


def manifold(a: argparse.Namespace) -> None:
    """Draw a plane through latent space."""
    checkpoint = load_checkpoint(a.checkpoint)
    shape = checked_shape(checkpoint.image_shape, checkpoint.data)
    write_picture(a.out, plots.manifold(checkpoint.model.eval(), shape, a.side, a.dims))


def interpolate(a: argparse.Namespace) -> None:
    """Draw what lies between pairs of data points."""
    model, data = model_and_data(a)
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
