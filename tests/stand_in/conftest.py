import pytest
import torch
from no_numbers import calls


@pytest.fixture(autouse=True)
def nothing_asked_before(monkeypatch):
    """A test begins with an empty record; and numbers that are none are not printed, which may take for ever."""
    calls()
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda t: f"<{t.dtype} {list(t.shape)} on {t.device}>")
