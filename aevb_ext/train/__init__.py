"""The trainer: ``fit`` and its settings, callbacks, checkpoints and processes."""

from ..configuration.settings import Settings
from .callbacks import Callback
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .distributed import PeerFailed, Processes, joined
from .evaluation import NonFiniteBound
from .loop import fit
from .run import History, Log, Record, Result, Run
from .step import Step, make_step

__all__ = [
    "Callback",
    "Checkpoint",
    "History",
    "Log",
    "NonFiniteBound",
    "PeerFailed",
    "Processes",
    "Record",
    "Result",
    "Run",
    "Settings",
    "Step",
    "fit",
    "joined",
    "load_checkpoint",
    "make_step",
    "save_checkpoint",
]
