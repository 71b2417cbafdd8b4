"""The stepsize as a function of the steps taken."""

import math
from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """What the stepsize is multiplied by at each step.

    Attributes:
        silent: first steps with stepsize 0, in which Adagrad accumulates squared gradients.
        warmup: after them, steps over which it grows linearly.
        total: steps after which half a cosine from 1 has come down to 0 (Loshchilov & Hutter 2017, eq. 5, without
            restarts). None: it stays 1.
    """

    silent: int = 0
    warmup: int = 0
    total: int | None = None

    def __call__(self, step: int) -> float:
        """The factor of the step that comes after ``step`` steps."""
        if step < self.silent:
            return 0.0
        rising = self.silent + self.warmup
        if step < rising:
            return (step - self.silent + 1) / self.warmup
        if self.total is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, self.total - rising))))
