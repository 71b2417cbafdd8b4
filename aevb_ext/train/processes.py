"""The processes that train together."""

from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: which it is, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and prints."""
        return self.rank == 0

    def synchronised(self, module: nn.Module) -> nn.Module:
        """The module whose backward averages gradients over the processes."""
        return module

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes."""
        return tensor

    def minimum(self, tensor: Tensor) -> Tensor:
        """The elementwise minimum over processes."""
        return tensor
