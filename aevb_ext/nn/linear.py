"""Layers as the trainer wants them."""

import torch
from torch import Tensor, nn

from .._library import ops

__all__ = ["Linear"]


class Linear(nn.Linear):
    """``nn.Linear``, optionally with tanh of its output, whose float32 products on the CPU are the fastest at hand.

    The parameters, their initial values and the state dict are those of ``nn.Linear``. On CPUs where PyTorch's own
    choice for float32 (MKL) is slowed down, oneDNN multiplies, and tanh is computed where the product is written; the
    results agree to rounding. On every other device and dtype, and under autocast, this *is* ``nn.Linear``.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        tanh: whether tanh follows.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, tanh: bool = False, **kwargs):
        super().__init__(in_features, out_features, bias, **kwargs)
        self.tanh = tanh

    def forward(self, x: Tensor) -> Tensor:
        """x ``[*, in_features]``; gives ``[*, out_features]``."""
        if x.is_cpu and x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            return ops.linear(x, self.weight, self.bias, self.tanh)
        y = super().forward(x)
        return y.tanh() if self.tanh else y

    def extra_repr(self) -> str:
        return super().extra_repr() + (", tanh=True" if self.tanh else "")
