"""What any one process may ask for, and all then do at the same step."""

import torch
from torch import distributed

from .processes import Processes

__all__ = ["Vote"]


class Vote:
    """Whether any process asks for something, answered without any of them waiting.

    What is asked at one call is answered at the next: the answer has then been under way for a whole step. All
    processes call it equally often, and all get the same answers.
    """

    def __init__(self, processes: Processes):
        self._processes, self._asked, self._under_way = processes, None, None

    def __call__(self, wish: bool) -> bool:
        """Ask, or not; whether any process asked at the call before (if there is no other, at this one)."""
        if not self._processes.are_several:
            return wish
        answer = self.close()
        self._asked = torch.tensor([wish], dtype=torch.int32)
        self._under_way = distributed.all_reduce(
            self._asked, distributed.ReduceOp.MAX, group=self._processes.control, async_op=True
        )
        return answer

    def close(self) -> bool:
        """The answer that is under way; the next call begins anew."""
        if self._under_way is None:
            return False
        self._under_way.wait()
        self._under_way = None
        return bool(self._asked.item())
