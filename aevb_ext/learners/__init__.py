"""Learners: the algorithms that train a model (AEVB, wake-sleep, Monte Carlo EM, full variational Bayes)."""

from .aevb import AEVB
from .full_vb import FullVB
from .mcem import MCEM
from .wake_sleep import WakeSleep

__all__ = ["AEVB", "LEARNERS", "MCEM", "FullVB", "WakeSleep"]

LEARNERS: dict[str, type[AEVB] | type[FullVB] | type[MCEM] | type[WakeSleep]] = {
    "aevb": AEVB,
    "wake-sleep": WakeSleep,
    "mcem": MCEM,
    "full-vb": FullVB,
}
