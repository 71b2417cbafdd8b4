"""The paper's figures: what each needs trained, and how it is drawn and compared."""

from .make import FIGURES, make

__all__ = ["FIGURES", "make"]
