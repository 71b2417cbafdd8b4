"""``aevb sample``."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import plots
from ..bar import bar
from ..noise import keys_at
from ..train import Checkpoint, load_checkpoint
from ..uses import write_npy, writing_npz
from . import again
from .config import count, whole
from .files import file_to_write
from .pictures import checked_shape, write_picture

__all__ = ["add"]

_ROWS = 1000


def add(verbs) -> None:
    """The verb."""
    parser = verbs.add_parser(
        "sample",
        help="new data points of a checkpoint's model: a picture, arrays",
        description="z is drawn from the prior; x is the mean of p(x | z), or drawn from it. Pixels are from 0 to 1.",
    )
    parser.set_defaults(run=_sample)
    again.add_run(parser)
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


def _sample(a) -> None:
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


def _blocks(a, checkpoint: Checkpoint) -> Iterator[Tensor]:
    model = checkpoint.model.eval()
    with bar("sampling", a.n) as told:
        for index in torch.arange(a.n).split(_ROWS):
            x = model.generate(len(index), sampled=a.sampled, key=keys_at(a.seed, "generation", index))
            yield x.reshape(-1, *(checkpoint.image_shape or x.shape[1:]))
            told(int(index[-1]) + 1)
