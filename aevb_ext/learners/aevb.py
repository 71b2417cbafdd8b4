"""Auto-Encoding Variational Bayes (Algorithm 1)."""

import math
from contextlib import nullcontext
from functools import reduce

import torch
from torch import Tensor

from ..models import VAE
from .adagrad import Adagrad
from .average import Average
from .objective import Objective
from .precision import autocast, check_precision
from .schedule import Schedule
from .tally import Tally
from .unless import unless

__all__ = ["AEVB", "OPTIMIZERS"]

# Default stepsizes. The gradient is summed over the minibatch, hence the small one of SGD.
OPTIMIZERS = {"adagrad": 0.02, "adam": 1e-3, "sgd": 1e-4}

# Adagrad's first steps only accumulate squared gradients: a stepsize divided by the root of a sum that has barely begun
# would throw the parameters far off.
ADAGRAD_SILENT_STEPS = 100


class AEVB:
    r"""Minibatch ascent of the bound and of the parameters' prior together (MAP).

    The objective of all N data points (eq. 8) is the minibatch's bound scaled by N/M, plus :math:`\log N(\theta; 0, I)`
    of the weights (not the biases). Both are multiplied by M/N here, so that the gradient is the sum over the minibatch
    and the prior is a weight decay of M/N.

    Args:
        model: the VAE to train, in place.
        n_data: N.
        batch_size: M, of all processes together.
        estimator, n_samples, sample_block, beta, beta_warmup, free_bits: as in
            :class:`~aevb_ext.learners.objective.Objective`.
        optimizer: ``"adagrad"`` (its first 100 steps accumulate squared gradients without updating), ``"adam"`` or
            ``"sgd"``.
        lr: its stepsize. Default: 0.02, 0.001, 0.0001.
        lr_warmup: over so many steps it grows linearly.
        total_steps: steps after which half a cosine has brought it down to 0. None: it is constant.
        clip: the largest norm of the gradient of the mean bound. None: no limit.
        ema: the decay of an average of the parameters, :attr:`average`. None: there is none.
        precision: ``"float32"`` | ``"tf32"`` (as the process is set, :func:`~.precision.matmul_precision`) | ``"bf16"``
            | ``"fp16"`` (with a loss scale that follows what overflows): autocast; parameters, gradients and the
            optimizer stay float32.
        skip_non_finite: leave everything as it was where a step's gradient is not finite.
        accumulate: in how many equal parts x is computed.
        processes: what :class:`~aevb_ext.train.processes.Processes` is; None: this process alone.

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
        lr_warmup: int = 0,
        total_steps: int | None = None,
        clip: float | None = None,
        ema: float | None = None,
        beta: float = 1.0,
        beta_warmup: int = 0,
        free_bits: float = 0.0,
        precision: str = "float32",
        skip_non_finite: bool = False,
        accumulate: int = 1,
        sample_block: int | None = None,
        processes=None,
    ):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
        self.lr = OPTIMIZERS[optimizer] if lr is None else lr
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {lr}")
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = device = self._parameters[0].device
        check_precision(precision, device)
        self.model, self.batch_size, self.accumulate = model, batch_size, accumulate
        bent = {"beta": beta, "beta_warmup": beta_warmup, "free_bits": free_bits}
        options = {"sample_block": sample_block, "processes": processes}
        self.objective = Objective(model, estimator, n_samples, **bent, **options).to(device)
        # The objective's own buffers (beta, the count of steps) are the same everywhere without being sent.
        sent = {"buffers": any(True for _ in model.buffers())}
        self._synchronised = self.objective if processes is None else processes.synchronised(self.objective, **sent)
        self._unsynchronised = getattr(self._synchronised, "no_sync", nullcontext)
        self._world_size = 1 if processes is None else processes.world_size
        self.schedule = Schedule(ADAGRAD_SILENT_STEPS if optimizer == "adagrad" else 0, lr_warmup, total_steps)
        self.optimizer = _optimizer(optimizer, self._parameters, self.lr, batch_size / n_data)
        self.average = None if ema is None else Average(model, ema)
        self.precision, self._clip, self._skip = precision, clip, skip_non_finite
        # The sum over a minibatch is larger than the mean that the usual first scale is for.
        scale = 2.0 ** (16 - round(math.log2(batch_size)))
        self.scaler = torch.amp.GradScaler(device.type, scale) if precision == "fp16" else None
        self.tally = Tally(device)
        # Processes' gradients are averaged: the sum is so many times the average.
        self._descend = torch.tensor(-float(self._world_size), device=device, dtype=self._parameters[0].dtype)
        self.steps = 0

    def step(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """One update from the minibatch x ``[M, *event]``.

        Args:
            x: this process's data points, as the data set has them.
            key: noise keys ``[M, 2]``, or ``[2]``; None: a fresh one.

        Returns:
            The mean bound of x before the update: a scalar on x's device, not synchronised with the host.
        """
        self.count()
        return self.update(x, key)

    def leave(self) -> None:
        """Have no more to do with other processes: what communicates must not outlive their group."""
        self._synchronised, self._unsynchronised = self.objective, nullcontext

    @property
    def current_lr(self) -> float:
        """The stepsize of the next step."""
        return self.lr * self.schedule(self.steps)

    def count(self) -> None:
        """What :meth:`step` does on the host: count it, and let the stepsize follow."""
        lr = self.current_lr
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                # On the device, where a CUDA graph reads it.
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.steps += 1

    def update(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """What :meth:`step` does on the device; a CUDA graph can capture it."""
        # What optimizer.zero_grad() does, in less time.
        for parameter in self._parameters:
            parameter.grad = None
        *parts, last = self._parts(x, key)
        # Gradients are sent once, when they are complete.
        with self._unsynchronised():
            sums = [self._add_gradient(*part) for part in parts]
        sums.append(self._add_gradient(*last))
        if self._skip:
            bad = ~torch.nn.utils.get_total_norm([p.grad for p in self._parameters]).isfinite()
            with unless(bad, self._what_changes):
                self._ascend()
        else:
            self._ascend()
        self.tally.count_step()
        return reduce(torch.add, sums) / len(x)

    def _parts(self, x: Tensor, key: Tensor | None) -> list[tuple]:
        if self.accumulate == 1:
            return [(x, key)]
        xs = x.chunk(self.accumulate)
        keys = key.chunk(self.accumulate) if key is not None and key.dim() > 1 else [key] * len(xs)
        return list(zip(xs, keys, strict=True))

    def _add_gradient(self, x: Tensor, key: Tensor | None) -> Tensor:
        """Add that of x's bounds to the parameters', and give the bounds' sum."""
        with autocast(self.precision, x.device.type):
            terms = self._synchronised(x, key)
            total = terms.bound.sum()
        scaled = total if self.scaler is None else self.scaler.scale(total)
        scaled.backward(self._descend)
        self.tally.add(terms)
        return total.detach()

    def _ascend(self) -> None:
        if self._clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip * self.batch_size)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.objective.count_step()
        if self.average is not None:
            self.average.update()

    def _what_changes(self) -> list[Tensor]:
        averages = [] if self.average is None else self.average.values
        return [*self._parameters, *averages, *state_of(self.optimizer)]


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimizer keeps."""
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]


def _optimizer(name: str, parameters: list[Tensor], lr: float, prior: float) -> torch.optim.Optimizer:
    weights = [p for p in parameters if p.dim() > 1]
    biases = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": prior}, {"params": biases}]
    on_cpu = all(p.device.type == "cpu" for p in parameters)
    if not on_cpu:
        # On the device, where a CUDA graph reads it at each replay.
        lr = torch.tensor(lr, device=parameters[0].device)
    match name:
        case "adagrad":
            return Adagrad(groups, lr)
        case "adam":
            # Capturable: its count of steps is on the device too.
            return torch.optim.Adam(groups, lr, fused=True, capturable=not on_cpu)
        case "sgd":
            return torch.optim.SGD(groups, lr, fused=True)
