"""``aevb manifold`` and ``aevb interpolate``: pictures of latent space."""

import torch

from .. import plots
from ..data import rows_of
from ..noise import keys_at
from ..train import load_checkpoint
from . import again
from .config import count, whole
from .files import file_to_write
from .pictures import checked_shape, write_picture

__all__ = ["add"]


def add(verbs) -> None:
    """The verbs."""
    parser = verbs.add_parser(
        "manifold",
        help="a picture of a plane through latent space",
        description="Two dimensions of z vary, each through the quantiles of its prior; the others are 0.",
    )
    parser.set_defaults(run=_manifold)
    again.add_run(parser)
    parser.add_argument(
        "--out", required=True, type=file_to_write(".png"), metavar="FILE.png", help="the picture to write"
    )
    parser.add_argument("--side", type=count, default=20, help="images along each side; default: %(default)s")
    parser.add_argument(
        "--dims", type=whole, nargs=2, metavar="I", help="which two of more dimensions, counted from 0: right, up"
    )

    parser = verbs.add_parser(
        "interpolate",
        help="a picture of the way between data points",
        description="A row for each pair of data points: the one, its reconstruction, the straight line between the "
        "posteriors' means, the reconstruction of the other, the other.",
    )
    parser.set_defaults(run=_interpolate)
    again.add_uses_flags(parser, "test")
    parser.add_argument(
        "--out", required=True, type=file_to_write(".png"), metavar="FILE.png", help="the picture to write"
    )
    parser.add_argument(
        "--pair",
        type=whole,
        nargs=2,
        action="append",
        metavar="I",
        help="the numbers of two data points; may be repeated; default: the first 16, in pairs",
    )
    parser.add_argument(
        "--steps", type=count, default=10, help="images of a row, reconstructions included; default: %(default)s"
    )


def _manifold(a) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    shape = checked_shape(checkpoint.image_shape, checkpoint.data)
    write_picture(a.out, plots.manifold(checkpoint.model.eval(), shape, a.side, a.dims))


def _interpolate(a) -> None:
    model, data = again.encoder_and_data(a)
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
