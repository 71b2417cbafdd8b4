"""How parameters are learnt."""

from .aevb import AEVB
from .wake_sleep import WakeSleep

__all__ = ["AEVB", "LEARNERS", "WakeSleep"]

LEARNERS = {"aevb": AEVB, "wake-sleep": WakeSleep}
