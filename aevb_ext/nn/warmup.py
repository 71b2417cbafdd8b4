"""What the bounds share: the weight of the KL, which may grow from 0, and free bits."""

import math

import torch
from torch import Tensor, nn

from .._arguments import described, is_integer, is_number


class WeightedKL(nn.Module):
    """The base class of the bounds: beta and the step count, as buffers on the device.

    Args:
        beta: the weight of the KL.
        warmup_steps: the weight grows linearly from 0 to beta over this many steps. 0: no warm-up.
    """

    beta: Tensor
    steps: Tensor

    def __init__(self, beta: float, warmup_steps: int):
        super().__init__()
        check_count("warmup_steps", warmup_steps, 0)
        check_weight("beta", beta)
        self.warmup_steps = int(warmup_steps)
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def current_beta(self) -> Tensor:
        """The weight of the KL at this step, a scalar on the device."""
        return now(self.beta, self.steps, self.warmup_steps)

    @torch.no_grad()
    def step(self) -> None:
        """Count a training step, on the device. Call it once after each step of the optimizer."""
        self.steps.add_(1)

    @torch.no_grad()
    def set_beta(self, beta: float | Tensor) -> None:
        """Change beta in place: to a number, or to a scalar tensor, which is not read on the host.

        Raises:
            ValueError: a number that is negative or not finite.
        """
        if not (isinstance(beta, Tensor) and beta.dim() == 0):
            check_weight("beta", beta)
        self.beta.fill_(beta)

    def _with_free_bits(self, groups: Tensor, free_bits: float | Tensor) -> Tensor:
        """The KL of each data point and group, ``[*batch, groups]``, or lambda where the group's mean is below it."""
        # NaN stays NaN in its own data point, and is left out of the mean for the others.
        values = groups.detach()
        is_free = self._mean_over_points(values.reshape(-1, values.shape[-1])) <= free_bits
        return torch.where(is_free & ~values.isnan(), free_bits, groups)

    def _mean_over_points(self, values: Tensor) -> Tensor:
        """The mean over data points without NaN, ``[B, groups]`` to ``[groups]``."""
        return values.nanmean(0)


def now(value: Tensor, steps: Tensor, growing_steps: int) -> Tensor:
    """``value``, or the part of it that it has grown to."""
    # Always a copy: the buffer may be filled with another value between a forward and its backward.
    return value * (steps / growing_steps).clamp(max=1) if growing_steps else value.clone()


def check_count(name: str, count: object, least: int) -> None:
    """Raise ValueError unless it is an integer, at least ``least``."""
    if not is_integer(count) or count < least:  # type: ignore[operator]
        raise ValueError(f"{name} must be an integer, at least {least}, got {described(count)}")


def check_weight(name: str, number: float | Tensor) -> None:
    """Raise ValueError unless it is a finite number from 0 on."""
    if not is_number(number) or not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number, at least 0, got {described(number)}")
