"""The trainer."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .loop import NonFiniteBound, Record, Result, fit
from .step import Step, make_step

__all__ = [
    "Checkpoint",
    "NonFiniteBound",
    "Record",
    "Result",
    "Step",
    "fit",
    "load_checkpoint",
    "make_step",
    "save_checkpoint",
]
