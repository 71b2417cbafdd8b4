"""What a step's bounds add up to, kept on the device until somebody prints."""

from typing import NamedTuple

import torch

from ..nn import ELBOTerms

__all__ = ["Tally", "Totals"]

_NEVER = torch.iinfo(torch.int64).max


class Totals(NamedTuple):
    """What was read.

    Attributes:
        bound, reconstruction, kl: means over the data points whose bound was finite; NaN where there were none.
        non_finite: how many data points' bounds were not.
        first_bad_step: the first step that had one, counted from 1; None: there was none.
    """

    bound: float
    reconstruction: float
    kl: float
    non_finite: int
    first_bad_step: int | None


class Tally:
    """Sums over data points and a count of those whose bound is not finite."""

    def __init__(self, device):
        # Of bound, reconstruction and KL; of how many data points; how many were not finite.
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)
        self._step = torch.ones((), dtype=torch.int64, device=device)
        self._first_bad = torch.full((), _NEVER, device=device)

    @torch.no_grad()
    def add(self, terms: ELBOTerms) -> None:
        """A minibatch's, or a part of it."""
        finite = terms.bound.isfinite()
        values = torch.stack([*terms, torch.ones_like(terms.bound)]).where(finite, 0).sum(1, dtype=torch.float64)
        bad = len(finite) - values[3:]
        self._sums += torch.cat([values, bad])
        torch.minimum(self._first_bad, torch.where(bad[0] > 0, self._step, _NEVER), out=self._first_bad)

    def count_step(self) -> None:
        """After each step."""
        self._step += 1

    def begin_at(self, steps: int) -> None:
        """So many steps were taken before."""
        self._step.fill_(steps + 1)

    def read(self, processes=None) -> Totals:
        """The totals since the last time, over all processes; waits for the device."""
        sums, first_bad = self._sums, self._first_bad
        if processes is not None:
            sums, first_bad = processes.sum(sums), processes.minimum(first_bad)
        *sums, count, bad = sums.tolist()
        first = first_bad.item()
        self._sums.zero_()
        self._first_bad.fill_(_NEVER)
        means = [total / count if count else float("nan") for total in sums]
        return Totals(*means, int(bad), None if first == _NEVER else first)
