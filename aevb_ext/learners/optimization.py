"""How parameters follow a gradient: optimiser, learning rate schedule, precision, masked updates, average."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "PRECISIONS",
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

    On the CPU one fused kernel for each group: torch's own step sorts the parameters and counts steps for each of them
    anew, which no learning rate without decay depends on: 90 us at every step, where the kernels take 130 (M = 100,
    MNIST). Elsewhere the learning rate is a tensor on the device, which torch's own step reads on the host: no CUDA
    graph could change it.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | Tensor):
        super().__init__(params, lr, fused=not isinstance(lr, torch.Tensor))
        # What a GradScaler asks: it then leaves its scale and what it found on this object.
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure, which nobody here has
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in params]
            sums = [self.state[p]["sum"] for p in params]
            settings = (group["lr"], group["weight_decay"], group["eps"])
            if not isinstance(group["lr"], torch.Tensor):
                steps = [self.state[p]["step"] for p in params]
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
    """What the learning rate is multiplied by at each step.

    Attributes:
        silent: first steps with learning rate 0, in which Adagrad accumulates squared gradients.
        warmup: after them, steps over which it grows linearly.
        total: steps after which half a cosine from 1 has come down to 0 (Loshchilov & Hutter 2017, eq. 5, without
            restarts). None: it stays 1.
    """

    silent: int = 0
    warmup: int = 0
    total: int | None = None

    def __call__(self, step: int) -> float:
        """The factor of the step that comes after ``step`` steps."""
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
    """A context that leaves ``tensors()`` as they were where ``bad`` is true: without the host ever knowing.

    Args:
        bad: bool, a scalar.
        tensors: what may change. One that is made inside (an optimizer's state at its first step) was zero before.
    """
    before = {id(t): t.clone() for t in tensors()}
    yield
    for t in tensors():
        t.copy_(torch.where(bad, before.get(id(t), 0), t))


class ParameterAverage:
    r""":math:`a \leftarrow d\,a + (1 - d)\,\theta` after each step; a begins as the parameters are.

    (PyTorch's AveragedModel counts its updates on the device and reads the count: a synchronisation at every step.)
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
        """Follow the parameters by one step."""
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


# The dtype of autocast; None: float32 throughout.
PRECISIONS = {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError where there is no such precision, or not on this device."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f'precision "tf32" is of CUDA devices, but the model is on {device}')


def autocast(precision: str, device_type: str) -> AbstractContextManager[object]:
    """The context in which a step's forward runs."""
    dtype = PRECISIONS[precision]
    # Without its cache, whose entries would not live through a CUDA graph's replays.
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype, cache_enabled=False)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """float32 products in tf32 where that is asked for; PyTorch's switch, which is the process's, is set back after."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    if precision == "tf32":
        matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
