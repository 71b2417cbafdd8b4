"""The protocol of a class of ``aevb_ext.train`` that learners use but must not import, since train lies above them."""

from typing import Protocol

from torch import Tensor, nn

__all__ = ["Processes"]


class Processes(Protocol):
    """The processes that train together: the part of :class:`aevb_ext.train.distributed.Processes` used here."""

    @property
    def world_size(self) -> int: ...

    @property
    def are_several(self) -> bool: ...

    def synchronised(self, module: nn.Module, *, buffers: bool = False) -> nn.Module: ...

    def sum(self, tensor: Tensor) -> Tensor: ...

    def minimum(self, tensor: Tensor) -> Tensor: ...
