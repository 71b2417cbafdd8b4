"""Representations: ``aevb encode`` and ``aevb probe``."""

import argparse
from functools import partial

from torch import Tensor

from .. import plots
from .._files import write_whole
from ..progress_bar import bar
from ..uses import L2S, probe_latents, probe_pixels, writing_npz
from . import common
from .common import Subcommands, file_to_write
from .config import whole

__all__ = ["add_encode", "add_probe"]


def add_encode(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "encode",
        help="the latent representation of data points: arrays of means and log-variances, or a plot of the means",
        description="Writes the arrays mean and logvar of q(z | x) and, if they are known, labels; or a scatter plot "
        "of the means in two dimensions, coloured by label.",
    )
    parser.set_defaults(run=_encode)
    common.add_uses_flags(parser, "train")
    parser.add_argument(
        "--out", required=True, type=file_to_write(".npz", ".png"), metavar="FILE", help="what to write: .npz, .png"
    )
    parser.add_argument(
        "--dims",
        type=whole,
        nargs=2,
        metavar="I",
        help="the two dimensions of the plot, x axis then y axis, counted from 0; default: those whose means vary most",
    )


def _encode(a: argparse.Namespace) -> None:
    model, data = common.encoder_and_data(a)
    x, labels = data.split(a.split)
    with bar("encoding", len(x)) as told:
        mean, logvar = model.encode(x, seed=a.seed, progress=told)
    if a.out.lower().endswith(".png"):
        dims = _dims(a.dims, mean)
        names = dict(enumerate(data.classes)) if data.classes else None
        write_whole(a.out, plots.latents(mean, labels, dims, names))
        return print(f"written to {a.out}: the means of z{dims[0]} and z{dims[1]} of {len(x)} data points")
    arrays = {"mean": mean, "logvar": logvar} | ({} if labels is None else {"labels": labels})
    with writing_npz(a.out) as write:
        for name, array in arrays.items():
            write(name, [array], len(x))
    print(f"written to {a.out}: {', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())}")


def _dims(asked: list[int] | None, mean: Tensor) -> tuple[int, int]:
    latent = mean.shape[1]
    if asked is None and latent >= 2:
        right, up = mean.var(0).topk(2).indices.sort().values.tolist()
        return right, up
    if asked is None or asked[0] == asked[1] or not all(0 <= dim < latent for dim in asked):
        raise ValueError(f"--dims: a picture is of two of the {latent} dimensions of z, 0 to {latent - 1}, got {asked}")
    return asked[0], asked[1]


def add_probe(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "probe",
        help="the accuracy of a linear classifier on latent means, and on pixels",
        description="Multinomial logistic regression, fitted to the train split. Its regularisation is chosen on the "
        "valid split (a fifth of train if there is none), and its accuracy is that on the test split. The data needs "
        "labels: the digits have them, MNIST and Fashion-MNIST if the files of labels are there, your own data if it "
        "has folders of classes or arrays of labels.",
    )
    parser.set_defaults(run=_probe)
    common.add_run(parser)
    common.add_data_flags(parser)
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")


def _probe(a: argparse.Namespace) -> None:
    model, data = common.encoder_and_data(a)
    for name, run in (("latent means", partial(probe_latents, model)), ("pixels", probe_pixels)):
        with bar(f"a classifier of {name}", len(L2S)) as told:
            found = run(data, progress=told)
        features = found.classifier.weight.shape[1]
        print(f"{name}: accuracy {found} ({found.count} points; {features} features, l2 {found.l2:g})", flush=True)
