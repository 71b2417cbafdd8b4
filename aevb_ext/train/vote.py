"""What any one process may ask for, and all then do at the same step."""

import math

import torch
from torch import distributed

from .processes import Processes

__all__ = ["Vote"]


# Gloo's answer takes 2 (n - 1) messages one after another: more processes than these are asked at fewer steps, so that
# the answer is there in time.
_EACH_STEP = 8


class Vote:
    """Whether any process asks for something: the same answer in all of them, which call it together."""

    def __init__(self, processes: Processes):
        self._processes, self._asked, self._under_way = processes, None, None
        self._every, self._calls = math.ceil(processes.world_size / _EACH_STEP), 0

    def __call__(self, wish: bool, *, now: bool = True) -> bool:
        """Ask, or not.

        Args:
            wish: whether this process asks.
            now: get the answer now, which waits for the others. Otherwise that of an earlier call, which had a whole
                step's time to arrive: with up to 8 processes the call before, with more of them only now and then, so
                that who asks has to ask again until it is granted.
        """
        if not self._processes.are_several:
            return wish
        if not now:
            self._calls += 1
            if self._calls % self._every:
                return False
        answer = self._answer()
        self._asked = torch.tensor([wish], dtype=torch.int32)
        self._under_way = distributed.all_reduce(
            self._asked, distributed.ReduceOp.MAX, group=self._processes.control, async_op=True
        )
        return (now and self._answer()) or answer

    def _answer(self) -> bool:
        if self._under_way is None:
            return False
        self._under_way.wait()
        self._under_way = None
        return bool(self._asked.item())
