"""Several processes that train one model: the process group, and what they agree on."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from .._messages import PlainError, first_line
from .._types import Device

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["AnyProcess", "PeerFailed", "Processes", "joined"]

# How long a process waits for the others; the first one needs less to write pictures and a checkpoint.
TIMEOUT = timedelta(minutes=5)

# DDP's argument has another name from PyTorch 2.13 on.
_SENDS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
)


# Of an error that all have, each knows within so many seconds.
_TOLD, _STAYS = "aevb_ext: errors told of", 2.0

# Gloo's threads drop a collective's tensors after it has ended, for which they need Python's lock, and DDP keeps these
# threads beyond the group. One that asks for the lock while Python ends aborts the process (seen with torch 2.13). They
# need microseconds; on a busy machine a thread may not run for tens of milliseconds.
_TO_LET_GO = 0.2


class PeerFailed(PlainError, RuntimeError):
    """Another of the processes that train together raised an error, ended, or did not answer in time."""


T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; by default it is alone.

    Attributes:
        rank: the number of this process, from 0.
        world_size: the number of processes.
        local_rank: the number of this process among those on its machine.
        group: of torch.distributed, for tensors on the model's device. None: the default one.
        control: of torch.distributed, for tensors on the CPU. None: the default one.
        store: shared by the processes; None if there is none.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    group: distributed.ProcessGroup | None = None
    control: distributed.ProcessGroup | None = None
    store: Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which writes and prints."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    def device(self, device: Device) -> torch.device:
        """The device of this process: with several processes, ``"cuda"`` is the CUDA device number ``local_rank``.

        Raises:
            ValueError: there is no such device, or several processes would share it.
        """
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device {device!r} is not a device: {error}") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r}: torch {torch.__version__} sees no CUDA device here")
        if device.type != "cuda" or not self.are_several:
            return _usable_device(device)
        count = torch.cuda.device_count()
        if device.index is not None:
            raise ValueError(
                f"device {str(device)!r}: with {self.world_size} processes give 'cuda', and each takes its own"
            )
        if self.local_rank >= count:
            raise ValueError(
                f"device 'cuda': process {self.rank} is number {self.local_rank} on its machine, which has {count} "
                f"CUDA devices: start at most as many processes there (torchrun --nproc-per-node {count})"
            )
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return _usable_device(device)

    def synchronised(self, module: nn.Module, *, buffers: bool = False) -> nn.Module:
        """Wrap a module so that its backward averages gradients over the processes; all start with the first's weights.

        Args:
            module: the module to wrap.
            buffers: broadcast the first process's buffers at each forward.
        """
        if not self.are_several:
            return module
        # Gradients that are views of what is sent save a copy: 7.7 not 9.1 ms a step at M = 100 (2 CPU processes).
        sent: dict[str, Any] = {_SENDS_BUFFERS: buffers}
        return DistributedDataParallel(module, process_group=self.group, gradient_as_bucket_view=True, **sent)

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast these tensors from the first process."""
        if self.are_several:
            for tensor in tensors:
                distributed.broadcast(tensor, group=self.group, group_src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes."""
        return self._reduced(tensor, distributed.ReduceOp.SUM)

    def minimum(self, tensor: Tensor) -> Tensor:
        """The elementwise minimum over processes."""
        return self._reduced(tensor, distributed.ReduceOp.MIN)

    def _reduced(self, tensor: Tensor, how: Any) -> Tensor:
        if not self.are_several:
            return tensor
        tensor = tensor.clone()
        distributed.all_reduce(tensor, how, group=self.group)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank; anything that can be pickled."""
        values = [value] * self.world_size
        if self.are_several:
            distributed.all_gather_object(values, value, group=self.control)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context that ends with an error in all processes if one of them fails in it.

        Raises:
            PeerFailed: another process failed; the message has its error.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as mine:
            error = mine
        errors = self.gather(error and str(error))
        if error is not None:
            raise error
        for rank, theirs in enumerate(errors):
            if theirs is not None:
                raise PeerFailed(f"{theirs} (process {rank} of {self.world_size})")

    @contextmanager
    def watched(self, doing: Callable[[], str]) -> Iterator[None]:
        """A context in which PyTorch's errors about communication become :class:`PeerFailed`.

        Args:
            doing: gives the beginning of the message: when it happened.
        """
        try:
            yield
        except RuntimeError as error:
            if not self.are_several or not _is_communication_error(error):
                raise
            raise PeerFailed(
                f"{doing()} another of the {self.world_size} processes ended, or did not answer for "
                f"{TIMEOUT.seconds // 60} minutes. What the run's folder holds is whole: start again from its last "
                f"checkpoint, with any number of processes"
            ) from error

    def tell(self, message: str) -> None:
        """Print an error on stderr, unless another process has printed one: the first error causes the others.

        torchrun prints much more when a process fails; its summary contains the message too.
        """
        if self._is_first_to_tell():
            print(message, file=sys.stderr, flush=True)
        if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            details = {"py_callstack": message, "timestamp": str(int(time.time()))}
            Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": details}}))

        self._stay_for_others_to_tell()

    def _is_first_to_tell(self) -> bool:
        try:
            return self.store is None or self.store.add(_TOLD, 1) == 1
        except RuntimeError:
            # The process that kept the store is gone.
            return True

    def _stay_for_others_to_tell(self) -> None:
        """The first process keeps the store: were it gone, others that fail of the same would not know of its word."""
        if self.store is None or not self.is_first:
            return
        until = time.monotonic() + _STAYS
        with suppress(RuntimeError):  # torchrun, where it is what keeps the store, is gone
            while time.monotonic() < until and self.store.add(_TOLD, 0) < self.world_size:
                time.sleep(0.02)

    @contextmanager
    def only_first_prints(self) -> Iterator[None]:
        """A context in which all processes but the first print nothing."""
        with ExitStack() as stack:
            if not self.is_first:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield


def _is_communication_error(error: RuntimeError) -> bool:
    # Gloo raises plain RuntimeErrors whose message begins with a place in its source.
    return isinstance(error, distributed.DistError) or "gloo" in first_line(error)


def _usable_device(device: torch.device) -> torch.device:
    """The device, if there is one and it holds numbers ("meta" does not); ValueError if not."""
    try:
        torch.ones((), device=device).item()
    # A device that this PyTorch was built without may raise anything.
    except Exception as error:
        raise ValueError(f"device {str(device)!r} cannot be trained or evaluated on: {first_line(error)}") from None
    return device


@contextmanager
def joined() -> Iterator[Processes]:
    """A context with the processes that torchrun (or another launcher that sets its variables) started.

    RANK and WORLD_SIZE are the number of this process and of all, MASTER_ADDR and MASTER_PORT the address of the first
    one, and LOCAL_RANK is the number of this process on its machine. NCCL communicates tensors on CUDA devices, gloo
    those on the CPU. If torch.distributed is initialised already, its default group is used, and not destroyed.

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
        time.sleep(_TO_LET_GO)


def _of_default_group(store: Store | None = None) -> Processes:
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    local_rank = _number("LOCAL_RANK", rank % max(1, torch.cuda.device_count()))
    control = None
    if "gloo" not in distributed.get_backend_config():
        # CPU tensors need gloo, which the default group may lack.
        control = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    return Processes(rank, world_size, local_rank, control=control, store=store)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} must be a number, got {text!r}") from None


# Gloo's all-reduce takes 2 (n - 1) messages in sequence. With more processes than this it is started at fewer steps, so
# that the answer is there in time.
_EACH_STEP = 8


class AnyProcess:
    """An all-reduce of a flag: whether any process asks for something. All processes call it together."""

    def __init__(self, processes: Processes):
        self._processes = processes
        self._asked: Tensor = torch.zeros(1, dtype=torch.int32)
        self._under_way: Any = None
        self._every, self._calls = math.ceil(processes.world_size / _EACH_STEP), 0

    def __call__(self, wish: bool, *, now: bool = True) -> bool:
        """Whether any process asks; the same answer in all processes.

        Args:
            wish: whether this process asks.
            now: wait for the answer to this call. Otherwise return the answer to an earlier call, which had a whole
                step's time to arrive: with up to 8 processes to the call before. With more processes only some calls
                are answered, so a process has to ask again until the answer is true.
        """
        if not self._processes.are_several:
            return wish
        if not now:
            self._calls += 1
            if self._calls % self._every:
                return False
        answer = self._answer()
        self._asked = torch.tensor([wish], dtype=torch.int32)
        self._under_way = distributed.all_reduce(
            self._asked, distributed.ReduceOp.MAX, group=self._processes.control, async_op=True
        )
        return (now and self._answer()) or answer

    def _answer(self) -> bool:
        if self._under_way is None:
            return False
        self._under_way.wait()
        self._under_way = None
        return bool(self._asked.item())
