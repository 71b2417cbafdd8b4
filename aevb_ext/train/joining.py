"""Joining the processes that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from .processes import TIMEOUT, Processes

__all__ = ["joined"]


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun (or another launcher that sets its variables) started, for as long as it is entered.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which this is, of how many, and where the first one is; LOCAL_RANK
    which of those on this machine. NCCL carries what is on CUDA devices, gloo what is on the CPU. Where
    torch.distributed is initialised already, its default group is taken, and left as it is.

    Raises:
        ValueError: WORLD_SIZE is set and another of the variables is not, or they are not numbers.
        RuntimeError: this PyTorch has no torch.distributed.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield _of_default_group()
        return
    world_size = _number("WORLD_SIZE", 1)
    if world_size == 1:
        yield Processes()
        return
    if not distributed.is_available():
        raise RuntimeError(f"WORLD_SIZE is {world_size}, but this PyTorch was built without torch.distributed")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is {world_size}, but {', '.join(missing)} not set: start with torchrun")
    on_cuda = torch.cuda.is_available() and distributed.is_nccl_available()
    store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        yield _of_default_group(store)
    finally:
        distributed.destroy_process_group()


def _of_default_group(store: distributed.Store | None = None) -> Processes:
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    local_rank = _number("LOCAL_RANK", rank % max(1, torch.cuda.device_count()))
    control = None
    if "gloo" not in distributed.get_backend_config():
        # What is on the CPU goes through gloo, which somebody else's group may be without.
        control = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    return Processes(rank, world_size, local_rank, control=control, store=store)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} must be a number, got {text!r}") from None
