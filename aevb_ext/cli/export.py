"""``aevb export``."""

import argparse
from pathlib import Path

from ..export import export_onnx, export_programs, missing_for_onnx
from ..train import load_checkpoint
from ..train.saved_run import folder_of
from . import common
from .common import Subcommands

__all__ = ["add"]


def add(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "export",
        help="a run's model for other programs: torch.export, ONNX",
        description="Writes encoder.pt2 (x to mu and logvar), decoder.pt2 (z to the mean of x) and, where onnx, "
        "onnxruntime and onnxscript are installed, decoder.onnx, each run and compared with the model first. x is on "
        "the scale where pixels are from 0 to 1; batches may be of any size.",
    )
    parser.set_defaults(run=_export)
    common.add_run(parser)
    parser.add_argument("--out", metavar="DIR", help="default: export in the run's folder")


def _export(a: argparse.Namespace) -> None:
    model = load_checkpoint(a.checkpoint).model
    out = folder_of(Path(a.checkpoint)) / "export" if a.out is None else Path(a.out)
    missing = missing_for_onnx()
    for write in (export_programs,) if missing else (export_programs, export_onnx):
        for path in write(model, out):
            print(f"written to {path}")
    if missing:
        print(f"left out: {missing}")
