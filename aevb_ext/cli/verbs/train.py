"""``aevb train`` and ``aevb held-out``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..._extras import check_extra
from ...configuration.run_folder import check_run_folder
from ...configuration.saved_run import CONFIG
from ..checks import check_keys
from ..config import add_flags, known_settings, read_config, resolved
from ..parser import Verbs, command
from ..values import count, whole
from .arguments import add_device

__all__ = ["add"]

# Training length of each run of held-out: the scores hardly change after it, and it takes half a minute of a core.
_HELD_OUT_SAMPLES = 300_000


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    parser = verbs.add(
        "train",
        "train a VAE on a dataset",
        run=command("train", "train"),
        check=_check_train,
        example="aevb train --data digits --samples-seen 2e4 --optimizer adam --out runs/first",
        usage="aevb train [--data DATA] [--out DIR] [--config FILE] [--KEY VALUE ...]",
    )
    parser.add_argument("--config", metavar="FILE.toml", help="keys and values; every key is a flag too, and flags win")
    parser.add_argument("--out", metavar="DIR", help="a new or empty folder; default: the next of runs/DATA-1, 2, ...")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the run in --out from its newest checkpoint; its keys hold unless --config or a flag sets them",
    )
    parser.add_argument(
        "--allow-change", action="append", default=[], metavar="KEY", help="a key that may change with --resume"
    )
    parser.add_argument(
        "--keep", type=count, default=3, metavar="N", help="how many checkpoints to keep; default: %(default)s"
    )
    parser.add_argument("--checkpoint-every", type=count, metavar="N", help="samples between checkpoints")
    parser.add_argument("--tensorboard", action="store_true", help="write scalars and pictures for TensorBoard too")
    parser.add_argument("--download", action="store_true", help="fetch the data into --data-dir first, where missing")
    add_device(parser)
    add_flags(parser)

    parser = verbs.add(
        "held-out",
        "train without the data points of a label: do they stand out?",
        run=command("anomaly", "held_out"),
        check=_check_held_out,
        example="aevb held-out --labels 1 7 --samples-seen 2e4 --out held-out",
        description="Trains a model without each label, scores the whole test split by minus the bound, and measures "
        "how well the score separates the label from the others: the area under the ROC curve. DIR/without-LABEL has "
        "each run and its scores, DIR/auc.csv the table. Runs that were begun are resumed. Each key of `aevb train` is "
        "a flag here too (`aevb train --help` lists them); the default length is 3e5 data points.",
        usage="aevb held-out --out DIR [--labels N ...] [--data DATA] [--KEY VALUE ...]",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder for the runs and the table")
    parser.add_argument("--labels", type=whole, nargs="+", metavar="N", help="the labels to leave out; default: all")
    parser.add_argument(
        "--k", type=count, default=50, help="samples of the importance-weighted bound; default: %(default)s"
    )
    parser.add_argument("--config", metavar="FILE.toml", help="keys and values of the runs, as of `aevb train`")
    add_device(parser)
    add_flags(parser, listed=False)


def _check_train(a: argparse.Namespace) -> None:
    """Checks, and leaves in ``a.keys`` every key of the run that has a value."""
    if a.resume and a.out is None:
        raise ValueError("--resume needs --out, the folder of the run to resume")
    if a.resume and a.config is None and (own := Path(a.out) / CONFIG).is_file():
        a.config = own
    a.keys = resolved(a)
    if a.download and a.keys.get("data_dir") is None:
        raise ValueError("--download needs --data-dir, the folder to download to")
    if a.tensorboard:
        check_extra("tensorboard", "--tensorboard")
    if a.download:
        known_settings(a.keys)
    else:
        check_keys(a.keys)
    # Of several processes only the first one looks at the folder, when it trains.
    if a.out is not None and os.environ.get("WORLD_SIZE", "1") == "1":
        check_run_folder(a.out, resume=a.resume)


def _check_held_out(a: argparse.Namespace) -> None:
    """Checks, and leaves in ``a.keys`` every key of the runs that has a value."""
    a.keys = resolved(a)
    given = {} if a.config is None else read_config(a.config)
    if not any(given.get(name) or getattr(a, name) for name in ("samples_seen", "epochs")):
        a.keys["samples_seen"] = _HELD_OUT_SAMPLES
    check_keys(a.keys)
