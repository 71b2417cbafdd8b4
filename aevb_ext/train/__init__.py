"""The trainer."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .loop import NonFiniteBound, Record, Result, fit

__all__ = ["Checkpoint", "NonFiniteBound", "Record", "Result", "fit", "load_checkpoint", "save_checkpoint"]
