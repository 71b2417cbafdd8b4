"""Auto-Encoding Variational Bayes (Algorithm 1)."""

from contextlib import nullcontext

import torch
from torch import Tensor

from ..estimators.bound import check_estimator
from ..models import VAE
from .adagrad import Adagrad

__all__ = ["AEVB", "OPTIMIZERS"]

# Default stepsizes. The gradient is summed over the minibatch, hence the small one of SGD.
OPTIMIZERS = {"adagrad": 0.02, "adam": 1e-3, "sgd": 1e-4}

# Adagrad's first steps only accumulate squared gradients: a stepsize divided by the root of a sum that has barely begun
# would throw the parameters far off.
ADAGRAD_WARMUP_STEPS = 100


class AEVB:
    r"""Minibatch ascent of the bound and of the parameters' prior together (MAP).

    The objective of all N data points (eq. 8) is the minibatch's bound scaled by N/M, plus :math:`\log N(\theta; 0, I)`
    of the weights (not the biases). Both are multiplied by M/N here, so that the gradient is the sum over the minibatch
    and the prior is a weight decay of M/N.

    Args:
        model: the VAE to train, in place.
        n_data: N.
        batch_size: M.
        estimator: ``"a"`` (eq. 6) or ``"b"`` (eq. 7).
        n_samples: L.
        optimizer: ``"adagrad"`` (its first 100 steps accumulate squared gradients without updating), ``"adam"`` or
            ``"sgd"``.
        lr: its stepsize. Default: 0.02, 0.001, 0.0001.
        bf16: compute the bound under autocast to bfloat16; parameters, gradients and the optimizer stay float32.
        generator: where the noise comes from, on the model's device. Default: PyTorch's.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    def __init__(
        self,
        model: VAE,
        n_data: int,
        *,
        batch_size: int = 100,
        estimator: str = "b",
        n_samples: int = 1,
        optimizer: str = "adagrad",
        lr: float | None = None,
        bf16: bool = False,
        generator: torch.Generator | None = None,
    ):
        self.model, self.batch_size, self.n_samples, self.generator = model, batch_size, n_samples, generator
        self._bound = check_estimator(estimator, n_samples)
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
        self.lr = OPTIMIZERS[optimizer] if lr is None else lr
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be a positive number, got {lr}")
        # Steps before the stepsize is lr.
        self.warmup_steps = ADAGRAD_WARMUP_STEPS if optimizer == "adagrad" else 0
        self.optimizer = _optimizer(optimizer, model, 0.0 if self.warmup_steps else self.lr, batch_size / n_data)
        self._parameters = list(model.parameters())
        self._descend = self._parameters[0].new_tensor(-1.0)
        self._bf16 = bf16
        self.steps = 0

    def step(self, x: Tensor) -> Tensor:
        """One update from the minibatch x ``[M, *event]``.

        Returns:
            The minibatch's mean bound before the update: a scalar on x's device, not synchronised with the host.
        """
        self.count()
        return self.update(x)

    def count(self) -> None:
        """What :meth:`step` does on the host: count it, and let the stepsize follow."""
        if self.steps == self.warmup_steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
        self.steps += 1

    def update(self, x: Tensor) -> Tensor:
        """What :meth:`step` does on the device; a CUDA graph can capture it."""
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False) if self._bf16 else nullcontext():
            total = self._bound(self.model, x, self.n_samples, self.generator).sum()
        # What optimizer.zero_grad() does, in less time.
        for parameter in self._parameters:
            parameter.grad = None
        total.backward(self._descend)
        self.optimizer.step()
        return total.detach() / len(x)


def _optimizer(name: str, model: VAE, lr: float, prior: float) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": prior}, {"params": biases}]
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    match name:
        case "adagrad":
            # Where it is not ours, torch may choose how: not every torch has it fused on CUDA.
            return Adagrad(groups, lr) if on_cpu else torch.optim.Adagrad(groups, lr)
        case "adam":
            # Capturable: its count of steps is on the device, as a CUDA graph needs it.
            return torch.optim.Adam(groups, lr, fused=True, capturable=not on_cpu)
        case "sgd":
            return torch.optim.SGD(groups, lr, fused=True)
