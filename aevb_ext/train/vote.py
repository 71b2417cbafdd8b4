"""What any one process may ask for, and all then do at the same step."""

import torch
from torch import distributed

from .processes import Processes

__all__ = ["Vote"]


class Vote:
    """The largest number that any process gives, which all of them get: without any of them waiting, if it may be late.

    All processes call it together.
    """

    def __init__(self, processes: Processes):
        self._processes, self._numbers, self._under_way = processes, None, None

    def __call__(self, number: int, *, now: bool = True) -> int:
        """Give a number.

        Args:
            number: at least 0, which says nothing.
            now: get the largest given now; otherwise that given at the call before, whose exchange had a whole step's
                time.
        """
        if not self._processes.are_several:
            return number
        answer = self._answer()
        self._numbers = torch.tensor([number])
        self._under_way = distributed.all_reduce(
            self._numbers, distributed.ReduceOp.MAX, group=self._processes.control, async_op=True
        )
        return max(answer, self._answer()) if now else answer

    def _answer(self) -> int:
        if self._under_way is None:
            return 0
        self._under_way.wait()
        self._under_way = None
        return int(self._numbers.item())
