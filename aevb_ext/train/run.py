"""The state of a run: steps, history, learner, and what callbacks see."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._checks import is_count
from ..configuration.settings import Settings
from ..data import Data
from ..estimators import Bound
from ..learners import LEARNERS
from ..models import VAE
from ..noise import seed_for
from .checkpoint import check_like, model_tensors
from .distributed import AnyProcess, Processes
from .step import make_step

__all__ = ["History", "Log", "Record", "Result", "Run"]


@dataclass(frozen=True)
class Log:
    """Means over the data points of the last steps, in nats, without those whose bound is not finite.

    Attributes:
        lr: the learning rate of the last of these steps.
        beta: the weight of the KL at the next step.
        rate: data points per second.
        non_finite: how many data points had a bound that was not finite.
        skipped: how many updates of the parameters were skipped; None with ``non_finite="stop"``, which skips none.
    """

    samples_seen: int
    steps: int
    seconds: float
    bound: float
    reconstruction: float
    kl: float
    lr: float
    beta: float
    rate: float
    non_finite: int
    skipped: int | None = None


@dataclass(frozen=True)
class Record:
    """One evaluation: the bounds (nats per data point, with standard errors) after ``samples_seen`` samples.

    With ``non_finite="skip"``, only data points with a finite bound count, and ``train_skipped``, ``test_skipped`` and
    ``valid_skipped`` are the numbers of the others; None: none.
    """

    samples_seen: int
    steps: int
    seconds: float
    train: float
    train_stderr: float
    test: float
    test_stderr: float
    valid: float | None = None
    valid_stderr: float | None = None
    train_skipped: int | None = None
    test_skipped: int | None = None
    valid_skipped: int | None = None

    @property
    def held_out(self) -> float:
        """The bound by which the best model is chosen: of the valid split, or of the test split if there is none."""
        return self.test if self.valid is None else self.valid


class History(list[Record]):
    """The evaluations of a run, in order: a list of :class:`Record`."""

    def best(self) -> Record | None:
        """The record with the highest held-out bound; None if there are no records."""
        return max(self, key=lambda record: record.held_out, default=None)

    def _repr_html_(self) -> str:
        """The curves and a table, for notebooks."""
        from ..plots import evaluations

        lines = [asdict(record) for record in self]
        return (
            f'<div style="max-width: 30em">{evaluations.chart(lines)}</div>{evaluations.listed(lines)}'
            if lines
            else "[]"
        )


@dataclass(frozen=True)
class Result:
    """The result of :func:`fit`: the last bounds, the history, and the reason if training ended early.

    Attributes:
        skipped: how many updates of the parameters were skipped because the gradient was not finite
            (``non_finite="skip"``).
    """

    train: Bound
    test: Bound
    history: History
    valid: Bound | None = None
    stopped: str | None = None
    skipped: int = 0


class Run:
    """The state of a run, which callbacks see.

    Attributes:
        model, data, settings: as given to :func:`fit`; data is on the model's device if it is resident.
        folder: the folder that it writes to, or None.
        checkpoint: the last checkpoint that it wrote or was resumed from, or None.
        changed: the settings that changed when the run was resumed: name to ``[old, new]``; None if it was not resumed.
        sampled: the splits that were compared with the checkpoint by a sample of rows only, in words; "" if none.
        history: the evaluations so far.
        processes: the processes that train together.
        stopped: the reason to end training after this step, or None.
        skipped: how many updates of the parameters were skipped, as of the last read from the device.
    """

    def __init__(
        self, model: VAE, data: Data, settings: Settings, folder: Path | None = None, processes: Processes | None = None
    ):
        self.model, self.data, self.settings, self.folder = model, data, settings, folder
        self.processes = processes or Processes()
        s = settings
        learner = LEARNERS[s.learner]
        options = ("batch_size", "accumulate", "optimizer", "lr", "lr_warmup", "clip", "ema", "precision")
        self.learner = learner(
            model,
            len(data.train),
            **{name: getattr(s, name) for name in (*options, *learner.TRAITS.options)},
            total_steps=s.steps if s.schedule == "cosine" else None,
            skip_non_finite=s.non_finite == "skip",
            processes=self.processes,
        )
        rank, world_size = self.processes.rank, self.processes.world_size
        self.step = make_step(self.learner, data.train, seed=s.seed, rank=rank, world_size=world_size)
        self.history, self.skipped = History(), 0
        self.checkpoint: Path | None = None
        self.changed: dict[str, list[Any]] | None = None
        self.stopped: str | None = None
        self._asked: str | None = None
        self.sampled = ""
        self._vote = AnyProcess(self.processes)
        self._seconds, self._started = 0.0, time.perf_counter()

    @property
    def steps(self) -> int:
        """Steps taken since the beginning of the run, before and after it was resumed."""
        return self.learner.steps

    @property
    def samples_seen(self) -> int:
        """Data points trained on, as :attr:`Settings.samples_per_step` counts them."""
        return self.steps * self.settings.samples_per_step

    @property
    def is_silent(self) -> bool:
        """Whether no step has changed a parameter yet, since Adagrad's first ones only accumulate squared gradients."""
        return self.steps <= self.learner.schedule.silent

    @property
    def seconds(self) -> float:
        """Time spent training, without interruptions between resumed parts."""
        return round(self._seconds + time.perf_counter() - self._started, 3)

    def stop(self, reason: str) -> None:
        """End training after this step. With several processes any may ask; all end after the same step, soon.

        (With up to 8 processes it is the next step; with n processes, at most n / 4 steps later.)
        """
        self._asked = self._asked or reason

    def agree(self, *, now: bool = True) -> None:
        """Set :attr:`stopped` to the same reason in all processes, which call this together.

        Without ``now`` no process waits: they agree on what was asked for at the last call.
        """
        if self._vote(self._asked is not None, now=now) and not self.stopped:
            self.stopped = next(reason for reason in self.processes.gather(self._asked) if reason is not None)

    def begin(self) -> None:
        """Call it before the first step. With several processes, it makes the model's own random draws differ.

        Such draws (dropout) come from PyTorch's generators, which are seeded by the seed, the process and the steps
        taken. A single process keeps the state of its generators, or restores the checkpoint's.
        """
        if self.processes.are_several:
            seed = seed_for(self.settings.seed, "model")
            for number in (self.processes.rank, self.steps):
                seed = seed_for(seed + number, "model")
            torch.manual_seed(seed)

    def leave(self) -> None:
        """Call it after the last step: releases communication with other processes, and threads."""
        self.step.close()
        self.learner.leave()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context with the model in evaluation mode, with its averaged parameters if there is an average."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with self.learner.average.in_place() if self.learner.average else nullcontext():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state for a checkpoint: tensors by name, and JSON content.

        It does not include the order of the data and the noise: they are functions of the settings and of the steps.
        """
        learner = self.learner
        tensors = model_tensors(self.model)
        tensors |= {f"optimizer.{i}.{name}": t for i, name, t in self._optimizer_state()}
        if learner.average:
            tensors |= {f"average.{name}": t for name, t in learner.average.named()}
        tensors |= {f"objective.{name}": t for name, t in learner.objective.own_state().items()}
        # For a model that draws random numbers itself (dropout). With several processes, the first one's state.
        tensors["random.cpu"] = torch.get_rng_state()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        values = {
            "steps": self.steps,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "history": [asdict(record) for record in self.history],
            "scaler": learner.scaler and learner.scaler.state_dict(),
        }
        return {name: t.detach() for name, t in tensors.items()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore a :meth:`state`. Call it before the first step.

        Raises:
            ValueError: the tensors are of another model or another optimizer, or a value is invalid.
        """
        learner, own = self.learner, self.state()[0]
        for prefix, what in (("model.", "model"), ("average.", "average"), ("objective.", "objective")):
            check_like(_below(tensors, prefix), _below(own, prefix), f"the checkpoint is of another {what}")
        state = self._checked_optimizer(_below(tensors, "optimizer."))
        steps, seconds, skipped, history = self._checked_values(values)
        self.model.load_state_dict(_below(tensors, "model."))
        groups = learner.optimizer.state_dict()["param_groups"]
        learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if learner.average:
            for name, t in learner.average.named():
                t.copy_(tensors[f"average.{name}"])
        for name, t in learner.objective.own_state().items():
            t.copy_(tensors[f"objective.{name}"])
        try:
            if learner.scaler:
                learner.scaler.load_state_dict(values["scaler"])
            torch.set_rng_state(tensors["random.cpu"].cpu())
            if "random.cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), next(self.model.parameters()).device)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"the checkpoint's loss scale or random state is invalid: {error}") from None
        learner.steps = steps
        learner.totals.begin_at(steps)
        self.history, self.skipped = history, skipped
        self._seconds, self._started = seconds, time.perf_counter()

    def _checked_optimizer(self, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimizer's state of each parameter; empty for one that has not had a gradient."""
        parameters = [p for group in self.learner.optimizer.param_groups for p in group["params"]]
        kept = {"adagrad": ["sum"], "adam": ["exp_avg", "exp_avg_sq"], "sgd": []}[self.settings.optimizer]
        state = {}
        for i, parameter in enumerate(parameters):
            if found := {name: t.clone() for name, t in _below(tensors, f"{i}.").items()}:
                expected = {name: parameter for name in kept}
                if kept:
                    expected["step"] = torch.zeros(())
                check_like(found, expected, f"the checkpoint is of another optimizer: parameter {i}")
                state[i] = found
        if len(tensors) != sum(map(len, state.values())):
            raise ValueError("the checkpoint is of another optimizer: it has more parameters")
        return state

    def _checked_values(self, values: dict[str, Any]) -> tuple[int, float, int, History]:
        steps: Any = values.get("steps")
        seconds: Any = values.get("seconds")
        history: Any = values.get("history")
        # Older checkpoints do not have it.
        skipped = values.get("skipped", 0)
        try:
            records = History(Record(**record) for record in history)
            numbers = [n for record in history for n in record.values() if n is not None]
            right = all(type(n) in (int, float) for n in [seconds, *numbers])
        except (TypeError, AttributeError):
            right = False
        if not (right and is_count(steps) and is_count(skipped)):
            raise ValueError("the checkpoint's steps, seconds or history are invalid")
        return steps, seconds, skipped, records

    def _optimizer_state(self) -> Iterator[tuple[int, str, Tensor]]:
        for i, state in self.learner.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield i, name, value


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
