"""Memory: glibc's settings for training, and errors that say what to lower if memory runs out."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from .._memory import out_of_memory
from .._messages import PlainError, first_line
from ..configuration.choices import LEARNER_TRAITS

__all__ = ["OutOfMemory", "explaining_out_of_memory", "keep_freed_memory", "out_of_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the rest of the process. With another C library this does nothing.

    Every step frees its activations and gradients and allocates the same again. If glibc returned the memory to the
    system, each page would be mapped and cleared anew: 500 to 1700 page faults a step at M = 100 of the paper's MNIST
    model, up to a third of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # An older glibc accepts no threshold above 32 MiB.
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


class _Settings(Protocol):
    """The fields of :class:`~aevb_ext.train.Settings` that the message names."""

    @property
    def learner(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def accumulate(self) -> int: ...

    @property
    def n_samples(self) -> int: ...

    @property
    def sample_block(self) -> int | None: ...


class OutOfMemory(PlainError, torch.OutOfMemoryError):
    """Out of memory; the message says which settings to lower."""


@contextmanager
def explaining_out_of_memory(doing: Callable[[], str], settings: _Settings) -> Iterator[None]:
    """A context that turns errors about memory into :class:`OutOfMemory`, which names the settings to change.

    Args:
        doing: a function that says when it happened: "at step 3".
        settings: a :class:`~aevb_ext.train.Settings`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        numbers = [f"batch_size ({settings.batch_size})"]
        helps = [f"raise accumulate ({settings.accumulate}), in how many parts a minibatch is computed"]
        if settings.n_samples > 1:
            numbers.insert(0, f"n_samples ({settings.n_samples})")
            if "sample_block" in LEARNER_TRAITS[settings.learner].options:
                block = "all of them" if settings.sample_block is None else settings.sample_block
                helps.insert(0, f"set sample_block, how many samples are computed at a time (now {block})")
        raise OutOfMemory(
            f"out of memory {doing()}: lower {' or '.join(numbers)}, or {', or '.join(helps)}; {first_line(error)}"
        ) from error
