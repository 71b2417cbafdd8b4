"""Running sums of the bounds of training steps, kept on the device until they are read."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Device
from ..nn import ELBOTerms
from .processes import Processes

__all__ = ["Accumulator", "Totals"]

_NEVER = torch.iinfo(torch.int64).max
# The most minibatches that are kept before they are summed.
_PENDING = 64


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
        self._first_bad = torch.full((), _NEVER, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        # The number of the current step: on a device there, where a CUDA graph advances it.
        self._step: int | Tensor = 1
        # On the CPU, where a call takes longer than the sum of a minibatch, many minibatches are summed at once.
        self._pending: list[tuple[int, list[Tensor]]] = []
        if self._sums.device.type != "cpu":
            self._step = torch.ones((), dtype=torch.int64, device=device)

    def add(self, terms: ELBOTerms) -> None:
        """Add the terms of a minibatch, or of a part of it. The CPU's are kept for a while, and must not change."""
        parts = [t.detach() for t in terms]
        if isinstance(self._step, Tensor):
            sums, first_bad = _sums_of([parts])[0], self._first_bad
            self._sums += sums
            torch.minimum(first_bad, torch.where(sums[4] > 0, self._step, _NEVER), out=first_bad)
            return
        if self._pending and (len(self._pending) == _PENDING or len(self._pending[0][1][0]) != len(parts[0])):
            self._sum_pending()
        self._pending.append((self._step, parts))

    def _sum_pending(self) -> None:
        """Add the minibatches that are kept, one after another."""
        if not self._pending:
            return
        steps, minibatches = zip(*self._pending, strict=True)
        self._pending = []
        each = _sums_of(minibatches)
        self._sums.copy_(torch.cat([self._sums[None], each]).cumsum(0)[-1])
        bad = [step for step, count in zip(steps, each[:, 4].tolist(), strict=True) if count]
        self._first_bad.fill_(min([*bad, int(self._first_bad)]))

    def count_skipped(self, skipped: Tensor) -> None:
        """Count an update if it was skipped: a bool scalar, the same in all processes."""
        self._skipped += skipped

    def count_step(self) -> None:
        """After each step."""
        self._step += 1

    def begin_at(self, steps: int) -> None:
        """Set how many steps were taken before (of a resumed run)."""
        if isinstance(self._step, Tensor):
            self._step.fill_(steps + 1)
        else:
            self._step = steps + 1

    def read(self, processes: Processes | None = None) -> Totals:
        """The totals since the last time, over all processes; waits for the device."""
        self._sum_pending()
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


@torch.no_grad()
def _sums_of(minibatches: Sequence[Sequence[Tensor]]) -> Tensor:
    """What is summed of each minibatch, float64 ``[len(minibatches), 5]``; each is three tensors ``[M]``."""
    ones = torch.ones_like(minibatches[0][0])
    stacked = torch.stack([t for terms in minibatches for t in (*terms, ones)]).unflatten(0, (-1, 4))
    finite = stacked[:, :1].isfinite()
    sums = stacked.where(finite, 0).sum(-1, dtype=torch.float64)
    return torch.cat([sums, len(ones) - sums[:, 3:]], 1)
