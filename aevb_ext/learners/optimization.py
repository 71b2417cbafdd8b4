"""Optimizer, learning rate schedule, precision, masked updates, and the average of parameters."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..configuration.choices import PRECISIONS

__all__ = [
    "Adagrad",
    "ParameterAverage",
    "Schedule",
    "autocast",
    "check_precision",
    "masked_update",
    "matmul_precision",
]


class Adagrad(torch.optim.Adagrad):
    """``torch.optim.Adagrad`` without its decay of the learning rate: the same state and the same numbers.

    On the CPU each group is one call of the fused kernel. torch's own step sorts the parameters and counts their steps
    each time, which only a decay needs and which takes 90 us a step, where the kernels take 130 (M = 100, MNIST). On
    other devices the learning rate is a tensor on the device. torch's own step reads it on the host, so a CUDA graph
    could not change it.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | Tensor):
        super().__init__(params, lr, fused=not isinstance(lr, torch.Tensor))
        # Tells GradScaler to set grad_scale and found_inf on this object rather than unscale the gradients.
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's takes a closure, which is never used here
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in params]
            states = [self.state[p] for p in params]
            sums = [state["sum"] for state in states]
            settings = (group["lr"], group["weight_decay"], group["eps"])
            if not isinstance(group["lr"], torch.Tensor):
                steps = [state["step"] for state in states]
                _fused(params, gradients, sums, steps, *settings, scale, found_inf)
                continue
            if scale is not None:
                torch._foreach_div_(gradients, scale)
            if found_inf is None:
                _foreach(params, gradients, sums, *settings)
            else:
                with masked_update(found_inf > 0, partial(list, params + sums)):
                    _foreach(params, gradients, sums, *settings)


def _fused(
    params: list[Tensor],
    gradients: list[Tensor],
    sums: list[Tensor],
    steps: list[Tensor],
    lr: float,
    weight_decay: float,
    eps: float,
    scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    torch._fused_adagrad_(
        params,
        gradients,
        sums,
        steps,
        lr=lr,
        lr_decay=0.0,
        weight_decay=weight_decay,
        eps=eps,
        maximize=False,
        grad_scale=scale,
        found_inf=found_inf,
    )


def _foreach(
    params: list[Tensor], gradients: list[Tensor], sums: list[Tensor], lr: Tensor, weight_decay: float, eps: float
) -> None:
    if weight_decay:
        gradients = list(torch._foreach_add(gradients, params, alpha=weight_decay))
    torch._foreach_addcmul_(sums, gradients, gradients)
    roots = torch._foreach_sqrt(sums)
    torch._foreach_add_(roots, eps)
    torch._foreach_addcdiv_(params, torch._foreach_mul(gradients, -lr), roots)


@dataclass(frozen=True)
class Schedule:
    """The learning rate schedule: a factor for each step.

    Attributes:
        silent: first steps with factor 0, in which Adagrad only accumulates squared gradients.
        warmup: steps after these over which the factor grows linearly to 1.
        total: the factor decays along half a cosine to 0 at this step (Loshchilov & Hutter 2017, eq. 5, without
            restarts). None: it stays 1.
    """

    silent: int = 0
    warmup: int = 0
    total: int | None = None

    def __call__(self, step: int) -> float:
        """The factor of step number ``step``, counted from 0."""
        if step < self.silent:
            return 0.0
        rising = self.silent + self.warmup
        if step < rising:
            return (step - self.silent + 1) / self.warmup
        if self.total is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, self.total - rising))))


@contextmanager
@torch.no_grad()
def masked_update(bad: Tensor, tensors: Callable[[], list[Tensor]]) -> Iterator[None]:
    """A context that restores ``tensors()`` at its end if ``bad`` is true, without reading ``bad`` on the host.

    Args:
        bad: bool, a scalar.
        tensors: gives the tensors that may change, among others: those that lie on another device than ``bad``, as
            Adagrad's counts of steps, are left alone. One that is created inside the context (an optimizer's state at
            its first step) is set to zero.
    """

    def changing() -> list[Tensor]:
        return [t for t in tensors() if t.device == bad.device]

    before = {id(t): t.clone() for t in changing()}
    yield
    for t in changing():
        t.copy_(torch.where(bad, before.get(id(t), 0), t))


class ParameterAverage:
    r"""An exponential moving average, :math:`a \leftarrow d\,a + (1 - d)\,\theta` after each step; a starts as theta.

    (PyTorch's AveragedModel counts its updates on the device and reads the count, which synchronises at every step.)
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names, self._parameters = zip(*learnt, strict=True)
        self.values = [p.detach().clone() for p in self._parameters]

    def named(self) -> list[tuple[str, Tensor]]:
        """The averages, each with its parameter's name."""
        return list(zip(self._names, self.values, strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages after a step."""
        torch._foreach_lerp_(self.values, self._parameters, 1 - self.decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """A context in which the parameters *are* the average."""
        own = [p.clone() for p in self._parameters]
        torch._foreach_copy_(self._parameters, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, own)


# The dtype of autocast; with the other precisions all is float32.
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError if the precision is unknown, or not available on this device."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f'precision "tf32" needs a CUDA device, but the model is on {device}')


def autocast(precision: str, device_type: str) -> AbstractContextManager[object]:
    """The autocast context of a step's forward."""
    dtype = _AUTOCAST.get(precision)
    # Without autocast's cache: its entries would not survive the replays of a CUDA graph.
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype, cache_enabled=False)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """A context in which float32 products use tf32 if ``precision`` says so. The process-wide switch is restored."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    if precision == "tf32":
        matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
