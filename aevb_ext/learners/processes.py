"""What a learner asks of what trains it, which lies above it in this package."""

from typing import Protocol

from torch import Tensor, nn

__all__ = ["Passes", "Processes"]


class Processes(Protocol):
    """This process among those that train together: a :class:`aevb_ext.train.distributed.Processes`."""

    @property
    def world_size(self) -> int: ...

    @property
    def are_several(self) -> bool: ...

    def synchronised(self, module: nn.Module, *, buffers: bool = False) -> nn.Module: ...

    def sum(self, tensor: Tensor) -> Tensor: ...

    def minimum(self, tensor: Tensor) -> Tensor: ...


class Passes(Protocol):
    """The settings that say how often a step evaluates a likelihood: of a :class:`aevb_ext.train.Settings`."""

    @property
    def hmc_steps(self) -> int: ...

    @property
    def weight_updates(self) -> int: ...
