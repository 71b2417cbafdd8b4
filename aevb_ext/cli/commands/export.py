"""``aevb export``."""

import argparse
from pathlib import Path

from ..._extras import lacking
from ...configuration.saved_run import folder_of
from ...export import export_onnx, export_programs
from ...train import load_checkpoint

__all__ = ["export"]


def export(a: argparse.Namespace) -> None:
    """Write the networks of a run's model."""
    model = load_checkpoint(a.checkpoint).model
    out = folder_of(Path(a.checkpoint)) / "export" if a.out is None else Path(a.out)
    missing = lacking("export", "decoder.onnx")
    for write in (export_programs,) if missing else (export_programs, export_onnx):
        for path in write(model, out):
            print(f"written to {path}")
    if missing:
        print(f"left out: {missing}")
