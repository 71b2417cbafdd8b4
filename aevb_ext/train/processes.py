"""The processes that train together."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["PeerFailed", "Processes"]

# How long a process waits for the others: longer than the first one takes to write pictures and a checkpoint.
TIMEOUT = timedelta(minutes=5)

# Its name from PyTorch 2.13 on, and before.
_SENDS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
)


class PeerFailed(RuntimeError):
    """Another of the processes that train together raised an error, ended, or did not answer in time."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; by default it is alone.

    Attributes:
        rank: which it is, from 0.
        world_size: how many there are.
        local_rank: which it is of those on this machine.
        group: of torch.distributed, for what is where the model is. None: the default one.
        control: likewise, for tensors on the CPU. None: the default one.
        store: that the processes share, and that outlives each of them; None where there is none.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    group: distributed.ProcessGroup | None = None
    control: distributed.ProcessGroup | None = None
    store: distributed.Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and prints."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def device(self, device) -> torch.device:
        """The device of this process: of several on one machine each takes the CUDA device of its number.

        Raises:
            ValueError: there is no such device, or it is one and the same for several processes.
        """
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device {device!r} is not a device: {error}") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r}: torch {torch.__version__} sees no CUDA device here")
        if device.type != "cuda" or not self.are_several:
            return _tried(device)
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
        return _tried(device)

    def synchronised(self, module: nn.Module, *, buffers: bool = False) -> nn.Module:
        """The module whose backward averages gradients over the processes; their parameters become the first's.

        Args:
            module: what is called forward.
            buffers: whether its buffers are the first's at each forward.
        """
        if not self.are_several:
            return module
        # Gradients that lie where they are sent from save a copy: 9.1 to 7.7 ms a step at M = 100 (2 CPU processes).
        return DistributedDataParallel(
            module, process_group=self.group, gradient_as_bucket_view=True, **{_SENDS_BUFFERS: buffers}
        )

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Make these tensors what they are in the first process."""
        if self.are_several:
            for tensor in tensors:
                distributed.broadcast(tensor, group=self.group, group_src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes."""
        return self._reduced(tensor, distributed.ReduceOp.SUM)

    def minimum(self, tensor: Tensor) -> Tensor:
        """The elementwise minimum over processes."""
        return self._reduced(tensor, distributed.ReduceOp.MIN)

    def _reduced(self, tensor: Tensor, how) -> Tensor:
        if not self.are_several:
            return tensor
        tensor = tensor.clone()
        distributed.all_reduce(tensor, how, group=self.group)
        return tensor

    def gather(self, value) -> list:
        """What each process has given, in order; anything that can be pickled."""
        values = [value] * self.world_size
        if self.are_several:
            distributed.all_gather_object(values, value, group=self.control)
        return values

    @contextmanager
    def together(self):
        """A context that all leave without an error, or none.

        Raises:
            PeerFailed: it went well here, but not in another process; says what was the matter there.
        """
        error = None
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
    def watched(self, doing):
        """A context in which PyTorch's errors about communication become :class:`PeerFailed`.

        Args:
            doing: a function that gives the message's beginning: when it happened.
        """
        try:
            yield
        except RuntimeError as error:
            if not self.are_several or not _is_of_communication(error):
                raise
            raise PeerFailed(
                f"{doing()} another of the {self.world_size} processes ended, or did not answer for "
                f"{TIMEOUT.seconds // 60} minutes. What the run's folder holds is whole: start again from its last "
                f"checkpoint, with any number of processes"
            ) from error

    def tell(self, message: str) -> None:
        """Print an error on stderr, unless another process has told of one: the first is the cause of the rest.

        torchrun, which prints much more when a process fails, has the message in its summary too.
        """
        if self._is_first_to_tell():
            print(message, file=sys.stderr, flush=True)
        if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            details = {"py_callstack": message, "timestamp": str(int(time.time()))}
            Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": details}}))

    def _is_first_to_tell(self) -> bool:
        try:
            return self.store is None or self.store.add("aevb_ext: errors told of", 1) == 1
        except RuntimeError:
            # The process that kept the store is gone.
            return True

    @contextmanager
    def only_first_prints(self):
        """A context in which what the other processes print is not seen."""
        with ExitStack() as stack:
            if not self.is_first:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield


def _is_of_communication(error: RuntimeError) -> bool:
    # Gloo's errors are plain RuntimeErrors that begin with a place in its source.
    return isinstance(error, distributed.DistError) or "gloo" in str(error).partition("\n")[0]


def _tried(device: torch.device) -> torch.device:
    """The device, if there is one and it holds numbers ("meta" does not); ValueError if not."""
    try:
        torch.ones((), device=device).item()
    # Whatever is raised by a device that this PyTorch was built without.
    except Exception as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"device {str(device)!r} cannot be trained or evaluated on: {said}") from None
    return device
