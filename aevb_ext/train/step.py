"""One step of training on data that lies where the model does: eager, or captured in one CUDA graph."""

import warnings

import torch
from torch import Tensor

from ..learners.aevb import AEVB
from .memory import keep_freed_memory

__all__ = ["GraphedStep", "Step", "make_step"]


class Step:
    """One step of Algorithm 1: a minibatch drawn with replacement, and the learner's update from it.

    Nothing in a step waits for the device.

    Args:
        learner: what updates; its generator draws the minibatches too.
        data: ``[N, *event]`` on the model's device, as the data set has it: bytes stay bytes, and only the rows of the
            minibatch are ever made floating.
    """

    def __init__(self, learner: AEVB, data: Tensor):
        self.learner, self.data = learner, data

    def __call__(self) -> Tensor:
        """Take the step.

        Returns:
            The minibatch's mean bound before the update: a scalar on the data's device.
        """
        self.learner.count()
        return self._update()

    def _update(self) -> Tensor:
        size, generator = (self.learner.batch_size,), self.learner.generator
        rows = torch.randint(len(self.data), size, generator=generator, device=self.data.device)
        return self.learner.update(self.data.index_select(0, rows))


class GraphedStep(Step):
    """The same step, replayed from one CUDA graph: a single launch for all its kernels.

    The graph draws the minibatch, and the noise keys, from the generator's state on the device, so the steps are those
    that :class:`Step` takes from the same state. The first steps are eager: PyTorch must have allocated what it keeps,
    and the stepsize, a constant of the graph, must be final. A step that cannot be captured (a model of one's own that
    reads from the device) stays eager, with a warning that says why.
    """

    # Steps before the capture, as many as PyTorch's documentation takes.
    _EAGER = 3

    def __init__(self, learner: AEVB, data: Tensor):
        super().__init__(learner, data)
        self._capture_after = max(self._EAGER, learner.warmup_steps)
        self._stream = torch.cuda.Stream(data.device)
        self._graph = self._bound = None

    def __call__(self) -> Tensor:
        self.learner.count()
        if self._graph is None and self.learner.steps > self._capture_after:
            try:
                self._capture()
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                warnings.warn(f"the training step is not captured in a CUDA graph: {reason}", stacklevel=2)
                self._capture_after = float("inf")
        if self._graph is None:
            return self._eager()
        self._graph.replay()
        return self._bound.clone()

    def _eager(self) -> Tensor:
        # On the stream of the capture, since autograd remembers where its buffers were made.
        caller = torch.cuda.current_stream(self.data.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            bound = self._update()
        caller.wait_stream(self._stream)
        bound.record_stream(caller)
        return bound

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        if self.learner.generator is not None:
            graph.register_generator_state(self.learner.generator)
        # The gradients are to lie in the graph's own memory.
        self.learner.optimizer.zero_grad()
        with torch.cuda.device(self.data.device), torch.cuda.graph(graph, stream=self._stream):
            self._bound = self._update()
        self._graph = graph


def make_step(learner: AEVB, data: Tensor) -> Step:
    """The quickest step there is for these: captured on CUDA; eager elsewhere, and memory is kept between steps."""
    if data.is_cuda:
        return GraphedStep(learner, data)
    keep_freed_memory()
    return Step(learner, data)
