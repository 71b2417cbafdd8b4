"""``aevb train``."""

import argparse
from itertools import count
from pathlib import Path

from ... import data as datasets
from ...train import fit
from .common import data_of_keys, default_device, model_of_keys, settings_of_keys

__all__ = ["train"]


def train(a: argparse.Namespace) -> None:
    """Train a run, or resume it, and print its last evaluation."""
    name = a.keys["data"]
    if a.download:
        datasets.download(name, a.keys["data_dir"])
    data = data_of_keys(a.keys)
    settings = settings_of_keys(a.keys, data)
    model = model_of_keys(a.keys, data, settings.seed)
    out = _next_folder(Path(name).stem) if a.out is None else Path(a.out)
    callbacks = []
    if a.tensorboard:
        from ...train.callbacks import TensorBoard

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
