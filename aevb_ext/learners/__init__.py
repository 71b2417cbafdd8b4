"""How parameters are learnt."""

from .aevb import AEVB

__all__ = ["AEVB"]
