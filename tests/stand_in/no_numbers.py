"""CUDA tensors without numbers, and what CUDA is asked for when they are worked with."""

import contextlib
import ctypes
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

# Whether emulation/runtime.cpp takes CUDA's place. In the CPU build of PyTorch there is none: tensors are fake there.
RUNTIME = torch.version.cuda is not None


def without_numbers():
    """Within it tensors of "cuda" have no numbers, and a read of one is an error, or a wait in `calls`."""
    return contextlib.nullcontext() if RUNTIME else FakeTensorMode()


def calls() -> list[str]:
    """What the stand-in was asked for since the last time: launches, copies, waits, captures. None of fake tensors."""
    if not RUNTIME:
        return []
    asked = ctypes.CDLL(None).stand_in_calls
    asked.restype = ctypes.c_char_p
    return asked().decode().splitlines()


def waits() -> list[str]:
    """Of these those for which the host waits, and all that it sends to the device or gets from there."""
    return [call for call in calls() if call.startswith("wait") or "to the host" in call or "to the device" in call]


@contextlib.contextmanager
def autocast(dtype):
    """torch.autocast("cuda", dtype), which turns itself off in the CPU build."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def learning_rates_are_positive():
    """Within it optimizers, which compare theirs with 0.0, are told so: a device that computes nothing cannot tell."""

    def comparison(name, holds):
        original = getattr(torch.Tensor, name)
        return lambda t, other: holds if t.dim() == 0 and type(other) is float and other == 0 else original(t, other)

    return mock.patch.multiple(torch.Tensor, __ge__=comparison("__ge__", True), __lt__=comparison("__lt__", False))
