"""The base classes of learners (minibatch ascent steps) and of the objectives that they maximise."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..configuration.choices import OPTIMIZERS, LearnerTraits
from ..models import VAE
from ..nn import ELBOTerms
from .accumulator import Accumulator
from .optimization import Adagrad, ParameterAverage, Schedule, autocast, check_precision, masked_update
from .processes import Processes

__all__ = ["Ascent", "Learner", "Objective"]


class Ascent(NamedTuple):
    """The result of an objective.

    Attributes:
        ascended: ``[B]``, the values that a step maximises.
        terms: the terms that are reported, each ``[B]``: the bound, if that is what is maximised.
    """

    ascended: Tensor
    terms: ELBOTerms


class Objective(nn.Module):
    """The function that a learner maximises: ``objective(x, key)`` gives an :class:`Ascent`.

    x is ``[B, *event]`` as stored in the dataset. The key is ``[2]`` or ``[B, 2]``; None: a fresh one. Checkpoints of a
    run contain :meth:`own_state`, what the objective has beside the model.

    Args:
        model: the VAE.
    """

    has_prior = True
    """Whether the parameters that it learns have the prior N(0, I), that is, whether it learns by MAP."""

    def __init__(self, model: VAE):
        super().__init__()
        self.model = model

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, key: Tensor | None = None) -> Ascent: ...

    @property
    def current_beta(self) -> float:
        """The weight of the KL at the next step."""
        return 1.0

    @property
    def learnt(self) -> list[Tensor]:
        """The parameters that it is maximised in."""
        return [p for p in self.parameters() if p.requires_grad]

    def own_state(self) -> dict[str, Tensor]:
        """Its tensors beside the model that a checkpoint needs, by name."""
        return {name: t for name, t in self.state_dict().items() if not name.startswith("model.")}

    def count_step(self) -> None:
        """After each update of the parameters."""


# In Adagrad's first steps the learning rate is 0 and only squared gradients accumulate: divided by the root of a sum of
# few terms, the first updates would be far too large.
ADAGRAD_SILENT_STEPS = 100


class Learner:
    r"""Minibatch ascent of an objective plus the parameters' log prior (MAP).

    The objective of all N data points (eq. 8) is the minibatch's scaled by N/M, plus :math:`\log N(\theta; 0, I)` of
    the weights (not the biases). Both are multiplied by M/N here, so that the gradient is the sum over the minibatch
    and the prior is a weight decay of M/N.

    Args:
        objective: maximised in its parameters, those of its model and its own.
        n_data: N.
        batch_size: M, of all processes together.
        optimizer: ``"adagrad"`` (its first steps only accumulate squared gradients), ``"adam"`` or ``"sgd"``.
        lr: the learning rate. Default: 0.02, 0.001 and 0.0001 for the three optimizers.
        lr_warmup: the learning rate grows linearly over this many steps.
        total_steps: the learning rate decays along half a cosine to 0 at this step. None: it is constant.
        clip: the largest norm of the gradient of the mean objective. None: no limit.
        ema: the decay of an average of the model's parameters, :attr:`average`. None: no average.
        precision: ``"float32"`` | ``"tf32"`` (a process-wide switch, :func:`~.optimization.matmul_precision`) |
            ``"bf16"`` | ``"fp16"`` (with dynamic loss scaling). The last two are autocast: parameters, gradients and
            the optimizer stay float32.
        skip_non_finite: skip the update of a step whose gradient is not finite, and count it.
        accumulate: compute x in this many equal parts (gradient accumulation).
        silent_steps: first steps in which Adagrad only accumulates squared gradients.
        processes: a :class:`~aevb_ext.train.distributed.Processes`. None: this process alone.

    Raises:
        ValueError: an unknown name, or a number out of range; no parameter to learn requires a gradient.
    """

    TRAITS = LearnerTraits()
    """Its own settings, whether it trains the encoder, and what a step counts as."""

    def __init__(
        self,
        objective: Objective,
        n_data: int,
        *,
        batch_size: int = 100,
        optimizer: str = "adagrad",
        lr: float | None = None,
        lr_warmup: int = 0,
        total_steps: int | None = None,
        clip: float | None = None,
        ema: float | None = None,
        precision: str = "float32",
        skip_non_finite: bool = False,
        accumulate: int = 1,
        silent_steps: int = ADAGRAD_SILENT_STEPS,
        processes: Processes | None = None,
    ):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
        self.lr = OPTIMIZERS[optimizer] if lr is None else lr
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {lr}")
        if not objective.learnt:
            raise ValueError(
                f"model has nothing to learn: no parameter that {type(self).__name__} learns has requires_grad=True"
            )
        self.model, self.batch_size, self.accumulate = objective.model, batch_size, accumulate
        self.device = device = next(self.model.parameters()).device
        check_precision(precision, device)
        self.objective = objective.to(device)
        self._parameters, self._buffers = objective.learnt, list(self.model.buffers())
        # The objective's own buffers (beta, the step count) are equal in all processes without being sent.
        sent = any(True for _ in self.model.buffers())
        together = None if processes is None else processes.synchronised(self.objective, buffers=sent)
        self._synchronised: nn.Module = self.objective if together is None else together
        self._unsynchronised: Callable[[], AbstractContextManager[object]] = getattr(
            self._synchronised, "no_sync", nullcontext
        )
        self._world_size = 1 if processes is None else processes.world_size
        self.schedule = Schedule(silent_steps if optimizer == "adagrad" else 0, lr_warmup, total_steps)
        prior = batch_size / n_data if objective.has_prior else 0.0
        self.optimizer = _optimizer(optimizer, self._parameters, self.lr, prior)
        self.average = None if ema is None else ParameterAverage(self.model, ema)
        self.precision, self._clip, self._skip = precision, clip, skip_non_finite
        # The usual initial scale is for the mean over a minibatch; the sum is batch_size times larger.
        scale = 2.0 ** (16 - round(math.log2(batch_size)))
        self.scaler = torch.amp.GradScaler(device.type, scale) if precision == "fp16" else None
        self.totals = Accumulator(device)
        # DDP averages the processes' gradients; the sum is world_size times the average.
        self._descend = torch.tensor(-float(self._world_size), device=device, dtype=self._parameters[0].dtype)
        self.steps = 0

    def step(self, x: Tensor, key: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """One step from the minibatch x ``[M, *event]``.

        Args:
            x: this process's data points, as stored in the dataset.
            key: noise keys ``[M, 2]``, or ``[2]``; None: a fresh one.
            index: int64 ``[M]``, the indices of the data points, for learners that keep state for each.

        Returns:
            The mean bound of x before the update: a scalar on x's device, not synchronised with the host.
        """
        self.count()
        return self.update(x, key, index)

    def leave(self) -> None:
        """Release what communicates with other processes: it must not outlive their group."""
        self._synchronised, self._unsynchronised = self.objective, nullcontext

    @property
    def current_lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr * self.schedule(self.steps)

    @property
    def last_lr(self) -> float:
        """The learning rate of the last step."""
        return self.lr * self.schedule(self.steps - 1)

    def count(self) -> None:
        """The part of :meth:`step` on the host: count the step, and set its learning rate."""
        lr = self.current_lr
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                # On the device, where a CUDA graph reads it.
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.steps += 1

    def update(self, x: Tensor, key: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """The part of :meth:`step` on the device; a CUDA graph can capture it."""
        bound = self._updated(x, key)
        self.totals.count_step()
        return bound

    def _updated(self, x: Tensor, key: Tensor | None) -> Tensor:
        """Make one update of the parameters; return the mean bound of x before it."""
        # The same as optimizer.zero_grad(), in less time.
        for parameter in self._parameters:
            parameter.grad = None
        # A forward may change buffers (a batch norm's statistics).
        buffers = [buffer.clone() for buffer in self._buffers] if self._skip else []
        *parts, last = self._parts(x, key)
        # Gradients are synchronised once, when they are complete.
        with self._unsynchronised():
            sums = [self._add_gradient(*part) for part in parts]
        sums.append(self._add_gradient(*last))
        if self._skip:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            bad = ~torch.nn.utils.get_total_norm(gradients).isfinite()
            with masked_update(bad, self._what_changes):
                self._ascend()
            for buffer, before in zip(self._buffers, buffers, strict=True):
                buffer.copy_(torch.where(bad, before, buffer))
            self.totals.count_skipped(bad)
        else:
            self._ascend()
        return reduce(torch.add, sums) / len(x)

    def _parts(self, x: Tensor, key: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        if self.accumulate == 1:
            return [(x, key)]
        xs = x.chunk(self.accumulate)
        keys: Sequence[Tensor | None] = (
            key.chunk(self.accumulate) if key is not None and key.dim() > 1 else [key] * len(xs)
        )
        return list(zip(xs, keys, strict=True))

    def _add_gradient(self, x: Tensor, key: Tensor | None) -> Tensor:
        """Add the objective's gradient to the parameters' gradients, and return the sum of x's bounds."""
        with autocast(self.precision, x.device.type):
            ascent: Ascent = self._synchronised(x, key)
            ascended, terms = ascent
            total = ascended.sum()
        scaled = total if self.scaler is None else self.scaler.scale(total)
        scaled.backward(self._descend)
        self.totals.add(terms)
        return total.detach() if ascended is terms.bound else terms.bound.sum()

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
    """The tensors of an optimizer's state."""
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]


def _optimizer(name: str, parameters: list[Tensor], lr: float, prior: float) -> torch.optim.Optimizer:
    weights = [p for p in parameters if p.dim() > 1]
    biases = [p for p in parameters if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": prior}, {"params": biases}]
    rate: float | Tensor = lr
    on_cpu = all(p.device.type == "cpu" for p in parameters)
    if not on_cpu:
        # On the device, where a CUDA graph reads it at each replay.
        rate = torch.tensor(lr, device=parameters[0].device)
    if name == "adagrad":
        return Adagrad(groups, rate)
    if name == "adam":
        # capturable: Adam's step count is on the device too.
        return torch.optim.Adam(groups, rate, fused=True, capturable=not on_cpu)
    return torch.optim.SGD(groups, rate, fused=True)
