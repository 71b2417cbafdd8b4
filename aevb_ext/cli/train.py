"""``aevb train``."""

import argparse
from itertools import count
from pathlib import Path

from .. import data as datasets
from ..train import fit
from ..train.saved_run import CONFIG
from .common import Subcommands, default_device
from .config import add_flags, data_of_keys, model_of_keys, resolved, settings_of_keys
from .config import count as count_of

__all__ = ["add"]


def add(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "train",
        help="train a VAE on a dataset",
        usage="aevb train [--config FILE.toml] [--out DIR] [--data DATA] [--KEY VALUE ...]",
    )
    parser.set_defaults(run=_run)
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
    parser.add_argument("--keep", type=count_of, default=3, help="how many checkpoints to keep; default: %(default)s")
    parser.add_argument("--checkpoint-every", type=count_of, metavar="N", help="samples between checkpoints")
    parser.add_argument("--tensorboard", action="store_true", help="write scalars and pictures for TensorBoard too")
    parser.add_argument("--download", action="store_true", help="fetch the data into --data-dir first, where missing")
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")
    add_flags(parser)


def _run(a: argparse.Namespace) -> None:
    if a.resume and a.out is None:
        raise ValueError("--resume needs --out, the folder of the run to resume")
    if a.resume and a.config is None and (own := Path(a.out) / CONFIG).is_file():
        a.config = own
    keys = resolved(a)
    name = keys["data"]
    if a.download and keys.get("data_dir") is None:
        raise ValueError("--download needs --data-dir, the folder to download to")
    if a.download:
        datasets.download(name, keys["data_dir"])
    data = data_of_keys(keys)
    settings = settings_of_keys(keys, data)
    model = model_of_keys(keys, data, settings.seed)
    out = _next_folder(Path(name).stem) if a.out is None else Path(a.out)
    callbacks = []
    if a.tensorboard:
        from ..train.callbacks import TensorBoard

        callbacks.append(TensorBoard())
    result = fit(
        model,
        data,
        settings=settings,
        device=default_device() if a.device is None else a.device,
        out=out,
        resume=a.resume,
        override=a.allow_change,
        keep=a.keep,
        checkpoint_every=a.checkpoint_every,
        callbacks=callbacks,
    )
    if result.stopped:
        print(f"ended early: {result.stopped}")
    print(f"train {settings.score} {result.train.told}")
    print(f"test {settings.score}  {result.test.told}")
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _next_folder(name: str) -> Path:
    return next(path for i in count(1) if not (path := Path("runs") / f"{name}-{i}").exists())
