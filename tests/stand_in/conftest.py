import pytest
import torch
from no_numbers import RUNTIME, calls

from aevb_ext import _library


@pytest.fixture(autouse=True)
def nothing_asked_before(monkeypatch):
    """A test begins with an empty record; and numbers that are none are not printed, which may take for ever."""
    calls()
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda t: f"<{t.dtype} {list(t.shape)} on {t.device}>")


@pytest.fixture(autouse=True)
def kernels_for_cuda(monkeypatch):
    """The CPU build has none for CUDA's tensors, and what is asked here is how its operators are called."""
    if not RUNTIME:
        monkeypatch.setattr(_library, "KERNELS", _library.KERNELS | {"cuda"})
