"""An exponential moving average of the parameters."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    r""":math:`a \leftarrow d\,a + (1 - d)\,\theta` after each step; a begins as the parameters are.

    (PyTorch's AveragedModel counts its updates on the device and reads the count: a synchronisation at every step.)
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names, self._parameters = zip(*learnt, strict=True)
        self.values = [p.detach().clone() for p in self._parameters]

    def named(self) -> list[tuple[str, Tensor]]:
        """The averages, each with its parameter's name."""
        return list(zip(self._names, self.values, strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Follow the parameters by one step."""
        torch._foreach_lerp_(self.values, self._parameters, 1 - self.decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self):
        """A context in which the parameters *are* the average."""
        own = [p.clone() for p in self._parameters]
        torch._foreach_copy_(self._parameters, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, own)
