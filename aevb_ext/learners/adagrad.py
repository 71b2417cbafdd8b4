"""Adagrad with little to do between its kernels, and nothing to read from the device."""

import torch

from .unless import unless

__all__ = ["Adagrad"]


class Adagrad(torch.optim.Adagrad):
    """``torch.optim.Adagrad`` without its decay of the stepsize: the same state and the same numbers.

    On the CPU one fused kernel for each group: torch's own step sorts the parameters and counts steps for each of them
    anew, which no stepsize without decay depends on: 90 us at every step, where the kernels take 130 (M = 100, MNIST).
    Elsewhere the stepsize is a tensor on the device, which torch's own step reads on the host: no CUDA graph could
    change it.
    """

    def __init__(self, params, lr):
        super().__init__(params, lr, fused=not isinstance(lr, torch.Tensor))
        # What a GradScaler asks: it then leaves its scale and what it found on this object.
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self) -> None:
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
                with unless(found_inf > 0, lambda tensors=params + sums: tensors):
                    _foreach(params, gradients, sums, *settings)


def _fused(params, gradients, sums, steps, lr, weight_decay, eps, scale, found_inf) -> None:
    constants = {"lr": lr, "lr_decay": 0.0, "weight_decay": weight_decay, "eps": eps, "maximize": False}
    torch._fused_adagrad_(params, gradients, sums, steps, **constants, grad_scale=scale, found_inf=found_inf)


def _foreach(params, gradients, sums, lr, weight_decay, eps) -> None:
    if weight_decay:
        gradients = torch._foreach_add(gradients, params, alpha=weight_decay)
    torch._foreach_addcmul_(sums, gradients, gradients)
    roots = torch._foreach_sqrt(sums)
    torch._foreach_add_(roots, eps)
    torch._foreach_addcdiv_(params, torch._foreach_mul(gradients, -lr), roots)
