"""Which data points each step is of: a function of the seed and of the steps taken."""

import math

import torch
from torch import Tensor

from ..noise import seed_for

__all__ = ["Order"]


class Order:
    """The endless sequence of epochs, each a permutation of the data, cut into minibatches.

    Minibatch t of all processes together is positions ``t * M ... (t + 1) * M - 1`` of the sequence (it may cross
    epochs; nothing is left out), and each process takes one of equal slices. A position's *visit* is
    ``epoch * N + data index``: no two positions have the same, and the noise of a data point comes from it.

    The visits of some steps ahead are on the device, and so is the place in them: what a CUDA graph replays moves on.

    Args:
        n_data: N.
        batch_size: M, of all processes.
        seed: of the permutations.
        device: where the visits are wanted.
        rank, world_size: which process this is, of how many. M must divide by world_size.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, n_data: int, batch_size: int, seed: int, device="cpu", *, rank: int = 0, world_size: int = 1):
        if batch_size % world_size:
            raise ValueError(f"batch_size must divide by the number of processes, got {batch_size} and {world_size}")
        self.n_data, self._batch, self._seed = n_data, batch_size, seed
        self._share, self._rank = batch_size // world_size, rank
        # Whole epochs, but for less than a step.
        self._ahead = max(1, math.ceil(n_data / batch_size))
        self._next = self._end = 0  # the step whose visits are next on the device, and where they end
        self._epochs = {}
        self._visits = torch.empty(self._ahead * self._share, dtype=torch.int64, device=device)
        self._place = torch.arange(self._share, device=device)

    def visits(self, step: int) -> Tensor:
        """Those of this process in the step that comes after ``step`` steps: int64 ``[M / world_size]`` on the CPU."""
        first = step * self._batch + self._rank * self._share
        last = first + self._share
        parts = []
        while first < last:
            epoch, place = divmod(first, self.n_data)
            count = min(last - first, self.n_data - place)
            parts.append(self._epoch(epoch)[place : place + count] + epoch * self.n_data)
            first += count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def prepare(self, step: int) -> None:
        """What is done on the host before the step that comes after ``step`` steps: now and then, new visits."""
        if step != self._next or step >= self._end:
            self._end = step + self._ahead
            visits = torch.cat([self.visits(t) for t in range(step, self._end)])
            if self._visits.is_cuda:
                visits = visits.pin_memory()
            self._visits.copy_(visits, non_blocking=True)
            self._place.copy_(torch.arange(self._share, device=self._place.device))
        self._next = step + 1

    def advance(self) -> Tensor:
        """The visits of the prepared step, on the device; the next call gives those of the step after it."""
        visits = self._visits.index_select(0, self._place)
        self._place += self._share
        return visits

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            # A step is of at most so many epochs, in order.
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            generator = torch.Generator().manual_seed(seed_for(seed_for(self._seed, "order") + epoch, "order"))
            self._epochs[epoch] = torch.randperm(self.n_data, generator=generator)
        return self._epochs[epoch]
