"""The verbs that use a model: ``aevb sample``, ``augment``, ``encode``, ``probe``, ``anomaly`` and ``export``."""

from __future__ import annotations

from ...configuration.choices import ESTIMATORS
from ..checks import check_encoder, check_model
from ..parser import Verbs, command
from ..values import count, factor, file_to_write, whole
from .arguments import add_data_flags, add_device, add_out, add_run, add_seed, add_uses_flags

__all__ = ["add"]


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    _add_generation(verbs)
    _add_representation(verbs)
    _add_anomaly(verbs)
    _add_export(verbs)


def _add_generation(verbs: Verbs) -> None:
    parser = verbs.add(
        "sample",
        "generate new data points: a picture, arrays",
        run=command("generate", "sample"),
        check=check_model,
        example="aevb sample runs/first --out samples.png",
        description="z is drawn from the prior; x is the mean of p(x | z), or drawn from it. Pixels are from 0 to 1.",
    )
    add_run(parser)
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
    add_seed(parser)

    parser = verbs.add(
        "augment",
        "variants of data points, which are perturbed in latent space",
        run=command("generate", "augment"),
        check=check_encoder,
        example="aevb augment runs/first --split test --n 3 --out variants.npz",
        description="Writes the arrays train (all variants of the first data point, then of the next, pixels from 0 "
        "to 1), index (the data point of each variant) and, if they are known, labels. `aevb train --data FILE.npz` "
        "trains on them. For images it also writes a picture, FILE.png: data points, each beside its variants.",
    )
    add_uses_flags(parser, "train")
    add_out(parser, ".npz")
    parser.add_argument("--n", type=count, default=5, help="variants of each data point; default: %(default)s")
    parser.add_argument(
        "--temperature",
        type=factor,
        default=1.0,
        metavar="T",
        help="what the posterior's standard deviation is multiplied by: 0 for reconstructions; default: %(default)s",
    )


def _add_representation(verbs: Verbs) -> None:
    parser = verbs.add(
        "encode",
        "latent representations: means and log-variances, or a plot",
        run=command("encode", "encode"),
        check=check_encoder,
        example="aevb encode runs/first --out latents.npz",
        description="Writes the arrays mean and logvar of q(z | x) and, if they are known, labels; or a scatter plot "
        "of the means in two dimensions, coloured by label.",
    )
    add_uses_flags(parser, "train")
    add_out(parser, ".npz", ".png", what="what to write: .npz, .png")
    parser.add_argument(
        "--dims",
        type=whole,
        nargs=2,
        metavar="I",
        help="the two dimensions of the plot, x axis then y axis, counted from 0; default: those whose means vary most",
    )

    parser = verbs.add(
        "probe",
        "the accuracy of a linear classifier of latents, and of pixels",
        run=command("encode", "probe"),
        check=check_encoder,
        example="aevb probe runs/first",
        description="Multinomial logistic regression, fitted to the train split. Its regularisation is chosen on the "
        "valid split (a fifth of train if there is none), and its accuracy is that on the test split. The data needs "
        "labels: the digits have them, MNIST and Fashion-MNIST if the files of labels are there, your own data if it "
        "has folders of classes or arrays of labels.",
    )
    add_run(parser)
    add_data_flags(parser)
    add_device(parser)


def _add_anomaly(verbs: Verbs) -> None:
    parser = verbs.add(
        "anomaly",
        "an anomaly score of each data point: minus its bound",
        run=command("anomaly", "anomaly"),
        check=check_encoder,
        example="aevb anomaly runs/first --out scores.csv",
        description="Writes a line for each data point: its number in the split, its label (where it is known) and its "
        "score: minus the bound in nats. The higher the score, the more anomalous.",
    )
    add_uses_flags(parser, "test")
    add_out(parser, ".csv")
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="b",
        help="a (eq. 6), b (eq. 7) or iwae (importance-weighted); default: %(default)s",
    )
    parser.add_argument("--samples", type=count, default=1, metavar="L", help="of z a data point; default: %(default)s")


def _add_export(verbs: Verbs) -> None:
    parser = verbs.add(
        "export",
        "a run's model for other programs: torch.export, ONNX",
        run=command("export", "export"),
        check=check_model,
        example="aevb export runs/first",
        description="Writes encoder.pt2 (x to mu and logvar), decoder.pt2 (z to the mean of x) and, where onnx, "
        "onnxruntime and onnxscript are installed, decoder.onnx, each run and compared with the model first. x is on "
        "the scale where pixels are from 0 to 1; batches may be of any size.",
    )
    add_run(parser)
    parser.add_argument("--out", metavar="DIR", help="default: export in the run's folder")
