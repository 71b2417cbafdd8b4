"""``aevb``: the trainer, and what is done with its runs, from a shell."""

from .main import main

__all__ = ["main"]
