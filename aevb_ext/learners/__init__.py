"""How parameters are learnt."""

from .aevb import AEVB
from .mcem import MCEM
from .wake_sleep import WakeSleep

__all__ = ["AEVB", "LEARNERS", "MCEM", "WakeSleep"]

LEARNERS = {"aevb": AEVB, "wake-sleep": WakeSleep, "mcem": MCEM}
