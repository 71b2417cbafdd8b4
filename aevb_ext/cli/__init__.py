"""The command ``aevb``: training, and what is done with a run afterwards."""

from .main import main

__all__ = ["main"]
