"""One step of training: eager, or captured in one CUDA graph."""

import math
import warnings

import torch
from torch import Tensor

from ..data import Rows, rows_of
from ..learners.learner import Learner
from ..noise import keys_at
from .ahead import Ahead
from .memory import keep_freed_memory
from .order import Order

__all__ = ["GraphedStep", "Step", "make_step"]


class Step:
    """One step of training: the next minibatch of the data's order, and the learner's update from it.

    Nothing in a step waits for the device. Order and noise are functions of the seed and of the steps that the learner
    has taken: nothing else is to be kept to take the same steps again.

    Args:
        learner: what updates.
        data: ``[N, *event]`` on the model's device, as the data set has it: bytes stay bytes, and only the rows of the
            minibatch are ever made floating. Or :class:`~aevb_ext.data.Rows`, resident there, or not resident: those
            are gathered ahead, in a thread that ends with :meth:`close`.
        seed: of the order and of the noise.
        rank, world_size: which process this is, of how many.
    """

    def __init__(self, learner: Learner, data: Tensor | Rows, *, seed: int = 0, rank: int = 0, world_size: int = 1):
        self.learner, self.rows, self.seed = learner, rows_of(data), seed
        processes = {"rank": rank, "world_size": world_size}
        self._order = Order(len(self.rows), learner.batch_size, seed, learner.device, **processes)
        self._ahead = None if self.rows.resident else Ahead(self.rows, self._order, seed, learner.device)
        self._x = None  # the minibatch of rows that are not resident

    def __call__(self) -> Tensor:
        """Take the step.

        Returns:
            The mean bound of this process's share of the minibatch before the update: a scalar on the data's device.
        """
        self._prepare()
        return self._update()

    def close(self) -> None:
        """End the thread that gathers ahead, if there is one; another step begins it again."""
        if self._ahead is not None:
            self._ahead.close()

    def _prepare(self) -> None:
        """What a step does on the host."""
        if self._ahead is not None:
            self._x = self._ahead.of_step(self.learner.steps)
        self._order.prepare(self.learner.steps)
        self.learner.count()

    def _update(self) -> Tensor:
        visits = self._order.advance()
        index = visits % self._order.n_data
        x = self._gathered(visits, index) if self._ahead is None else self._x
        return self.learner.update(x, keys_at(self.seed, "posterior", visits), index)

    def _gathered(self, visits: Tensor, index: Tensor) -> Tensor:
        keys = keys_at(self.seed, "binarize", visits) if self.rows.draws else None
        return self.rows.gather(index, keys)


class GraphedStep(Step):
    """The same step, replayed from one CUDA graph: a single launch for all its kernels.

    What a step depends on moves on, on the device: the place in the data's order, and with it the noise keys; the
    stepsize; beta. The first steps are eager: PyTorch must have allocated what it keeps. A step that cannot be captured
    (a model of one's own that reads from the device) stays eager, with a warning that says why.
    """

    # Steps before the capture, as many as PyTorch's documentation takes.
    _EAGER = 3

    def __init__(self, learner: Learner, data: Tensor | Rows, **kwargs):
        super().__init__(learner, data, **kwargs)
        self._eager_left = self._EAGER
        self._stream = torch.cuda.Stream(learner.device)
        self._graph = self._bound = self._place = None

    def _prepare(self) -> None:
        super()._prepare()
        if self._ahead is not None:
            # The graph reads each minibatch where it has read the first.
            self._place = self._x.clone() if self._place is None else self._place.copy_(self._x)
            self._x = self._place

    def __call__(self) -> Tensor:
        self._prepare()
        if self._graph is None and self._eager_left <= 0:
            try:
                self._capture()
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                warnings.warn(f"the training step is not captured in a CUDA graph: {reason}", stacklevel=2)
                self._eager_left = math.inf
        if self._graph is None:
            self._eager_left -= 1
            return self._eager()
        self._graph.replay()
        return self._bound.clone()

    def _eager(self) -> Tensor:
        # On the stream of the capture, since autograd remembers where its buffers were made.
        caller = torch.cuda.current_stream(self.learner.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            bound = self._update()
        caller.wait_stream(self._stream)
        bound.record_stream(caller)
        return bound

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # The gradients are to lie in the graph's own memory.
        self.learner.optimizer.zero_grad()
        # The thread that gathers ahead goes on with what it does on a stream of its own.
        mode = "global" if self._ahead is None else "thread_local"
        with (
            torch.cuda.device(self.learner.device),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode=mode),
        ):
            self._bound = self._update()
        self._graph = graph


def make_step(learner: Learner, data: Tensor | Rows, **kwargs) -> Step:
    """The quickest step there is for these: captured on CUDA; eager elsewhere, and memory is kept between steps.

    Arguments are those of :class:`Step`. With several processes a step is not captured: one line says so.
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
