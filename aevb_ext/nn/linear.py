"""Layers as the trainer wants them."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._arguments import explain, explained, integer, tensor, truth
from .._library import ops

__all__ = ["Linear", "MeanLogvar"]


class Linear(nn.Linear):
    """``nn.Linear``, optionally with tanh of its output, whose float32 products on the CPU are the fastest at hand.

    The parameters, their initial values and the state dict are those of ``nn.Linear``. On CPUs where PyTorch's own
    choice for float32 (MKL) is slowed down, oneDNN multiplies, and tanh is computed where the product is written; the
    results agree to rounding. On every other device and dtype, and under autocast, this *is* ``nn.Linear``.

    Data may stay bytes: there they are scaled and cast a block of rows at a time, in the backward again, so that a
    large minibatch is never there in floats.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        tanh: whether tanh follows.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, tanh: bool = False, **kwargs: Any):
        explain(Linear, locals(), in_features=integer, out_features=integer, bias=truth)
        super().__init__(in_features, out_features, bias, **kwargs)
        self.tanh = tanh

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, x_scale: float = 1.0) -> Tensor: ...

    @explained(x=tensor())
    def forward(self, x: Tensor, x_scale: float = 1.0) -> Tensor:
        """The layer of ``x * x_scale``.

        Args:
            x: ``[*, in_features]``, of the weight's dtype (but for autocast), or uint8 or bool.
            x_scale: what x is multiplied by (1/255 for grey bytes).

        Returns:
            ``[*, out_features]``.
        """
        return self._with(self.weight, x, x_scale)

    def _with(self, weight: Tensor, x: Tensor, x_scale: float) -> Tensor:
        fused = x.is_cpu and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if fused and x.dtype in (torch.uint8, torch.bool):
            y: Tensor = ops.linear(x, weight, self.bias, self.tanh, x_scale)
            return y
        x = scaled(x, x_scale, weight.dtype)
        if fused and x.dtype == torch.float32:
            y = ops.linear(x, weight, self.bias, self.tanh)
            return y
        y = nn.functional.linear(x, weight, self.bias)
        return y.tanh() if self.tanh else y

    def extra_repr(self) -> str:
        return super().extra_repr() + (", tanh=True" if self.tanh else "")


class MeanLogvar(Linear):
    """A linear layer to a mean and log sigma^2, packed, with the weights of log sigma^2 multiplied by a constant.

    Steps of Adagrad and Adam are as long whatever the gradient's scale: log sigma^2 follows so many times slower.

    Args:
        in_features: how many numbers x has.
        out_features: of the mean and log sigma^2 together: even.
        logvar_scale: the constant.
    """

    def __init__(self, in_features: int, out_features: int, logvar_scale: float):
        super().__init__(in_features, out_features)
        self.logvar_scale = logvar_scale

    def forward(self, x: Tensor, x_scale: float = 1.0) -> Tensor:
        """The layer of ``x * x_scale``, as :class:`Linear` has it."""
        mean, logvar = self.weight.chunk(2)
        return self._with(torch.cat((mean, self.logvar_scale * logvar)), x, x_scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, logvar_scale={self.logvar_scale}"


def scaled(x: Tensor, x_scale: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """``x * x_scale``; of bytes and truth values in ``dtype``, or in what autocast would make of it."""
    if not x.is_floating_point():
        # Bytes are exact in half precision: no float32 minibatch is made on the way.
        device = x.device.type
        x = x.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype)
    return x if x_scale == 1 else x * x_scale
