"""A training step, eager or captured in a CUDA graph, and the sampling and prefetching of its minibatch."""

import math
import warnings
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from .._messages import first_line
from .._types import Device
from ..data import Rows, prefetch, rows_of
from ..learners.learner import Learner
from ..noise import keys_at, seed_for
from .memory import keep_freed_memory

__all__ = ["GraphedStep", "MinibatchSampler", "Prefetcher", "Step", "make_step"]


class MinibatchSampler:
    """The endless sequence of epochs, each a permutation of the data, split into minibatches.

    Minibatch t of all processes together is positions ``t * M ... (t + 1) * M - 1`` of the sequence (it may cross
    epochs; nothing is left out), and each process takes one of equal slices. A position's *visit* is
    ``epoch * N + data index``. It is unique, and the noise of a data point is derived from it.

    The noise keys of the next steps' visits are on the device, and so is the position in them, so that a replayed CUDA
    graph advances by itself.

    Args:
        n_data: N.
        batch_size: M, of all processes.
        seed: of the permutations and of the noise.
        device: where the keys are wanted.
        rank, world_size: the number of this process, and of all. M must be a multiple of world_size.

    Raises:
        ValueError: it is not.
    """

    def __init__(
        self, n_data: int, batch_size: int, seed: int, device: Device = "cpu", *, rank: int = 0, world_size: int = 1
    ):
        if batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, got {batch_size} and {world_size}"
            )
        self.n_data, self._batch, self._seed = n_data, batch_size, seed
        self._share, self._rank = batch_size // world_size, rank
        self._world_size = world_size
        # How many steps ahead: an epoch, rounded up to whole steps.
        self._ahead = max(1, math.ceil(n_data / batch_size))
        self._next = self._end = 0  # the step whose keys are next on the device, and where they end
        self._epochs: dict[int, Tensor] = {}
        self._keys = torch.empty(self._ahead * self._share, 2, dtype=torch.int64, device=device)
        self._place = torch.arange(self._share, device=device)

    def visits(self, step: int, steps: int = 1) -> Tensor:
        """The visits of this process from step ``step`` on, counted from 0: int64 ``[steps * M / world_size]``.

        They are on the CPU.
        """
        first, last = step * self._batch, (step + steps) * self._batch
        parts = []
        while first < last:
            epoch, place = divmod(first, self.n_data)
            count = min(last - first, self.n_data - place)
            parts.append(self._epoch(epoch)[place : place + count] + epoch * self.n_data)
            first += count
        of_all = parts[0] if len(parts) == 1 else torch.cat(parts)
        return of_all.view(steps, self._world_size, self._share)[:, self._rank].flatten()

    def prepare(self, step: int) -> None:
        """The host's work before step ``step``, counted from 0: once an epoch, new keys are sent to the device."""
        if step != self._next or step >= self._end:
            self._end = step + self._ahead
            keys = keys_at(self._seed, "posterior", self.visits(step, self._ahead))
            if self._keys.is_cuda:
                keys = keys.pin_memory()
            self._keys.copy_(keys, non_blocking=True)
            self._place.copy_(torch.arange(self._share, device=self._place.device))
        self._next = step + 1

    def advance(self) -> Tensor:
        """The posterior's noise keys of the prepared step, ``[M / world_size, 2]``, and advance to those of the next.

        A key's second number is the visit.
        """
        keys = self._keys.index_select(0, self._place)
        self._place += self._share
        return keys

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            # Keep only the epochs that a step may still need.
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            generator = torch.Generator().manual_seed(seed_for(seed_for(self._seed, "order") + epoch, "order"))
            self._epochs[epoch] = torch.randperm(self.n_data, generator=generator)
        return self._epochs[epoch]


class Prefetcher:
    """Prefetches minibatches of rows that are not resident: a thread gathers and copies them before their step.

    The data points of a step and their noise keys follow from its number, so a checkpoint needs nothing of the
    minibatches under way.

    It pays on the CPU too. A step of the paper's MNIST model at M = 100 takes 13.2 rather than 14.8 ms on decoded
    images, and does not wait for a disk that takes 3 ms. If the file is cached, a step of 3.7 ms takes 0.1 to 0.2 ms
    more.

    Args:
        rows: rows that are not resident.
        order: the sampler of this process.
        seed: of the noise of rows that draw.
        device: where the minibatches are wanted.
    """

    def __init__(self, rows: Rows, order: MinibatchSampler, seed: int, device: torch.device):
        self._rows, self._order, self._seed, self._device = rows, order, seed, device
        self._next = 0
        self._minibatches: Generator[Tensor, None, None] | None = None

    def of_step(self, step: int) -> Tensor:
        """The minibatch of step ``step``, counted from 0: ``[M / world_size, *event]`` on the device.

        An exception of the rows is raised here, at the step that needs them.
        """
        if self._minibatches is None or step != self._next:
            self.close()
            batches = _batches(self._rows, self._order, self._seed, step)
            minibatches = self._minibatches = prefetch(self._rows, batches, self._device)
        else:
            minibatches = self._minibatches
        self._next = step + 1
        return next(minibatches)

    def close(self) -> None:
        """End the thread."""
        if self._minibatches is not None:
            self._minibatches.close()
            self._minibatches = None


def _batches(rows: Rows, order: MinibatchSampler, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    for step in count(first):
        visits = order.visits(step)
        yield visits % order.n_data, keys_at(seed, "binarize", visits) if rows.draws else None


class Step:
    """One training step: the next minibatch in the data's order, and the learner's update from it.

    Nothing in a step waits for the device. Order and noise are functions of the seed and of the learner's number of
    steps, so resuming needs no other state.

    Args:
        learner: makes the update.
        data: ``[N, *event]`` on the model's device, as stored in the dataset: bytes stay bytes, and only the rows of
            the minibatch are converted to floats. Or :class:`~aevb_ext.data.Rows`: resident on that device, or not
            resident, which are prefetched by a thread that ends with :meth:`close`.
        seed: of the order and of the noise.
        rank, world_size: the number of this process, and of all.
    """

    def __init__(self, learner: Learner, data: Tensor | Rows, *, seed: int = 0, rank: int = 0, world_size: int = 1):
        self.learner, self.rows, self.seed = learner, rows_of(data), seed
        processes = {"rank": rank, "world_size": world_size}
        self._order = MinibatchSampler(len(self.rows), learner.batch_size, seed, learner.device, **processes)
        self._prefetcher = None if self.rows.resident else Prefetcher(self.rows, self._order, seed, learner.device)
        self._x: Tensor | None = None  # the prefetched minibatch, if rows are not resident

    def __call__(self) -> Tensor:
        """Take the step.

        Returns:
            The mean bound of this process's share of the minibatch before the update: a scalar on the data's device.
        """
        self._prepare()
        return self._update()

    def close(self) -> None:
        """End the prefetching thread, if there is one; another step starts it again."""
        if self._prefetcher is not None:
            self._prefetcher.close()

    def _prepare(self) -> None:
        """The part of a step on the host."""
        if self._prefetcher is not None:
            self._x = self._prefetcher.of_step(self.learner.steps)
        self._order.prepare(self.learner.steps)
        self.learner.count()

    def _update(self) -> Tensor:
        keys = self._order.advance()
        visits = keys[:, 1]
        index = visits % self._order.n_data
        x = self._gathered(visits, index) if self._x is None else self._x
        return self.learner.update(x, keys, index)

    def _gathered(self, visits: Tensor, index: Tensor) -> Tensor:
        keys = keys_at(self.seed, "binarize", visits) if self.rows.draws else None
        return self.rows.gather(index, keys)


class GraphedStep(Step):
    """The same step, replayed from one CUDA graph: a single launch for all its kernels.

    Everything that changes from step to step is on the device: the position in the data's order, and with it the noise
    keys; the learning rate; beta. The first steps are eager, so that PyTorch allocates its persistent state. A step
    that cannot be captured (a model that reads from the device) stays eager, with a warning that says why.
    """

    # Warm-up steps before the capture, as many as in PyTorch's documentation.
    _EAGER = 3

    def __init__(self, learner: Learner, data: Tensor | Rows, **kwargs: Any):
        super().__init__(learner, data, **kwargs)
        self._eager_left: float = self._EAGER
        self._stream = torch.cuda.Stream(learner.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._bound: Tensor | None = None
        self._place: Tensor | None = None

    def _prepare(self) -> None:
        super()._prepare()
        if self._x is not None:
            # The graph reads each minibatch at the address of the first.
            self._place = self._x.clone() if self._place is None else self._place.copy_(self._x)
            self._x = self._place

    def __call__(self) -> Tensor:
        self._prepare()
        if self._graph is None and self._eager_left <= 0:
            try:
                self._capture()
            except RuntimeError as error:
                reason = first_line(error)
                warnings.warn(f"the training step is not captured in a CUDA graph: {reason}", stacklevel=2)
                self._eager_left = math.inf
        if self._graph is None or self._bound is None:
            self._eager_left -= 1
            return self._eager()
        self._graph.replay()
        return self._bound.clone()

    def _eager(self) -> Tensor:
        # On the stream of the capture, since autograd remembers the stream on which its buffers were made.
        caller = torch.cuda.current_stream(self.learner.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            bound = self._update()
        caller.wait_stream(self._stream)
        bound.record_stream(caller)
        return bound

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # Freed, so that the capture allocates the gradients in the graph's own memory.
        self.learner.optimizer.zero_grad()
        # The prefetching thread continues to use its own stream during the capture.
        mode = "global" if self._prefetcher is None else "thread_local"
        with (
            torch.cuda.device(self.learner.device),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode=mode),
        ):
            self._bound = self._update()
        self._graph = graph


def make_step(learner: Learner, data: Tensor | Rows, **kwargs: Any) -> Step:
    """The fastest step for these arguments, which are those of :class:`Step`.

    It is captured on CUDA, and eager elsewhere, with freed memory kept between steps. With several processes a step is
    not captured, and a warning says so.
    """
    if learner.device.type == "cuda":
        if kwargs.get("world_size", 1) == 1:
            return GraphedStep(learner, data, **kwargs)
        if kwargs["rank"] == 0:
            reason = "several processes average its gradients (NCCL), which a graph would have to replay in step"
            warnings.warn(f"the training step is not captured in a CUDA graph: {reason}", stacklevel=2)
        return Step(learner, data, **kwargs)
    keep_freed_memory()
    return Step(learner, data, **kwargs)
