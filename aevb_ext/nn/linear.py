"""Linear layers for the trainer: fast on the CPU, with tanh, and for data as bytes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._arguments import explain, explained, integer, tensor, truth
from .._library import KERNELS, ops
from .._operand_checks import check_layer

__all__ = ["Linear", "MeanLogvar"]


class Linear(nn.Linear):
    """``nn.Linear``, optionally followed by tanh, with the fastest float32 product available on the CPU.

    The parameters, their initial values and the state dict are those of ``nn.Linear``. On CPUs where PyTorch's own
    choice for float32 (MKL) is slow, oneDNN multiplies, and tanh is computed as the product is written; the results
    agree up to rounding. On every other device and dtype, and under autocast, this *is* ``nn.Linear``.

    Data may stay bytes. On the CPU they are scaled and cast a block of rows at a time, and again in the backward, so
    that a large minibatch never exists as floats.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        tanh: apply tanh to the output.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, tanh: bool = False, **kwargs: Any):
        explain(Linear, locals(), in_features=integer, out_features=integer, bias=truth)
        super().__init__(in_features, out_features, bias, **kwargs)
        self.tanh = tanh

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, x_scale: float = 1.0) -> Tensor: ...

    @explained(x=tensor())
    def forward(self, x: Tensor, x_scale: float = 1.0) -> Tensor:
        """Apply the layer to ``x * x_scale``.

        Args:
            x: ``[*, in_features]``, of the weight's dtype (except under autocast), or uint8 or bool.
            x_scale: what x is multiplied by (1/255 for grey bytes).

        Returns:
            ``[*, out_features]``.
        """
        return self._with(self.weight, x, x_scale)

    def _with(self, weight: Tensor, x: Tensor, x_scale: float) -> Tensor:
        fused = KERNELS and x.is_cpu and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if fused and x.dtype in (torch.uint8, torch.bool):
            y: Tensor = ops.linear(x, weight, self.bias, self.tanh, x_scale)
            return y
        x = scaled(x, x_scale, weight.dtype)
        if fused and x.dtype == torch.float32:
            y = ops.linear(x, weight, self.bias, self.tanh)
            return y
        try:
            y = nn.functional.linear(x, weight, self.bias)
        except RuntimeError:
            check_layer("x", x, weight, self.bias)  # whose errors name the argument
            raise
        return y.tanh() if self.tanh else y

    def extra_repr(self) -> str:
        return super().extra_repr() + (", tanh=True" if self.tanh else "")


class MeanLogvar(Linear):
    """A linear layer to a mean and log sigma^2, packed, with the weights of log sigma^2 multiplied by a constant.

    Steps of Adagrad and Adam do not depend on the gradient's scale, so log sigma^2 changes slower by that factor.

    Args:
        in_features: the number of features of x.
        out_features: the number of outputs of mean and log sigma^2 together: even.
        logvar_scale: the constant.
    """

    def __init__(self, in_features: int, out_features: int, logvar_scale: float):
        super().__init__(in_features, out_features)
        self.logvar_scale = logvar_scale

    def forward(self, x: Tensor, x_scale: float = 1.0) -> Tensor:
        """Apply the layer to ``x * x_scale``, as in :class:`Linear`."""
        mean, logvar = self.weight.chunk(2)
        return self._with(torch.cat((mean, self.logvar_scale * logvar)), x, x_scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, logvar_scale={self.logvar_scale}"


def scaled(x: Tensor, x_scale: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """``x * x_scale``; for uint8 and bool in ``dtype``, or in autocast's dtype if autocast is on."""
    if not x.is_floating_point():
        # Bytes are exact in half precision, so no float32 minibatch is needed in between.
        device = x.device.type
        x = x.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype)
    return x if x_scale == 1 else x * x_scale
