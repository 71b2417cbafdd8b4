"""Doing something, or not, by what the device knows alone."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["unless"]


@contextmanager
@torch.no_grad()
def unless(bad: Tensor, tensors: Callable[[], list[Tensor]]):
    """A context that leaves ``tensors()`` as they were where ``bad`` is true: without the host ever knowing.

    Args:
        bad: bool, a scalar.
        tensors: what may change. One that is made inside (an optimizer's state at its first step) was zero before.
    """
    before = {id(t): t.clone() for t in tensors()}
    yield
    for t in tensors():
        t.copy_(torch.where(bad, before.get(id(t), 0), t))
