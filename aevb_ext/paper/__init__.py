"""The paper's figures: the runs that each needs, how it is drawn, and its comparison with the paper."""

from .make import FIGURES, make

__all__ = ["FIGURES", "make"]
