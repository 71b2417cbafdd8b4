"""Running sums of the bounds of training steps, kept on the device until they are read."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Device
from ..nn import ELBOTerms
from .processes import Processes

__all__ = ["Accumulator", "Totals"]

_NEVER = torch.iinfo(torch.int64).max


class Totals(NamedTuple):
    """The totals since the last read.

    Attributes:
        bound, reconstruction, kl: means over the data points whose bound was finite; NaN where there were none.
        non_finite: how many data points had a bound that was not finite.
        first_bad_step: the first step with such a data point, counted from 1; None: there was none.
        skipped: how many updates of the parameters were skipped.
    """

    bound: float
    reconstruction: float
    kl: float
    non_finite: int
    first_bad_step: int | None
    skipped: int


class Accumulator:
    """Sums over data points, and counts of bounds that are not finite and of skipped updates."""

    def __init__(self, device: Device):
        # Sums of bound, reconstruction and KL; the number of finite data points; the number of others.
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)
        self._step = torch.ones((), dtype=torch.int64, device=device)
        self._first_bad = torch.full((), _NEVER, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, terms: ELBOTerms) -> None:
        """Add the terms of a minibatch, or of a part of it."""
        finite = terms.bound.isfinite()
        values = torch.stack([*terms, torch.ones_like(terms.bound)]).where(finite, 0).sum(1, dtype=torch.float64)
        bad = len(finite) - values[3:]
        self._sums += torch.cat([values, bad])
        torch.minimum(self._first_bad, torch.where(bad[0] > 0, self._step, _NEVER), out=self._first_bad)

    def count_skipped(self, skipped: Tensor) -> None:
        """Count an update if it was skipped: a bool scalar, the same in all processes."""
        self._skipped += skipped

    def count_step(self) -> None:
        """After each step."""
        self._step += 1

    def begin_at(self, steps: int) -> None:
        """Set how many steps were taken before (of a resumed run)."""
        self._step.fill_(steps + 1)

    def read(self, processes: Processes | None = None) -> Totals:
        """The totals since the last time, over all processes; waits for the device."""
        sums, first_bad = self._sums, self._first_bad
        if processes is not None:
            sums, first_bad = processes.sum(sums), processes.minimum(first_bad)
        *values, count, bad = sums.tolist()
        first, skipped = int(first_bad.item()), int(self._skipped.item())
        self._sums.zero_()
        self._skipped.zero_()
        self._first_bad.fill_(_NEVER)
        bound, reconstruction, kl = (total / count if count else float("nan") for total in values)
        return Totals(bound, reconstruction, kl, int(bad), None if first == _NEVER else first, skipped)
