"""A run: what training changes, and what it knows."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import Data
from ..estimators import Bound
from ..learners.aevb import AEVB
from ..models import VAE
from .processes import Processes
from .settings import Settings
from .step import make_step

__all__ = ["History", "Log", "Record", "Result", "Run"]


@dataclass(frozen=True)
class Log:
    """Means over the data points of the last few steps, in nats; what was not finite is counted, and not in them."""

    samples_seen: int
    steps: int
    seconds: float
    bound: float
    reconstruction: float
    kl: float
    lr: float
    beta: float
    rate: float  # data points a second
    non_finite: int


@dataclass(frozen=True)
class Record:
    """One evaluation: the bounds (nats per data point, with standard errors) after ``samples_seen`` samples."""

    samples_seen: int
    steps: int
    seconds: float
    train: float
    train_stderr: float
    test: float
    test_stderr: float
    valid: float | None = None
    valid_stderr: float | None = None

    @property
    def held_out(self) -> float:
        """The bound that says which model is best: of the valid split, or without one of the test split."""
        return self.test if self.valid is None else self.valid


class History(list):
    """The evaluations of a run, in order: a list of :class:`Record`."""

    def best(self) -> Record | None:
        """That with the highest held-out bound; None of none."""
        return max(self, key=lambda record: record.held_out, default=None)


@dataclass(frozen=True)
class Result:
    """What :func:`fit` gives back: the last bounds, the curve, and why training ended before its time, if it did."""

    train: Bound
    test: Bound
    history: History
    valid: Bound | None = None
    stopped: str | None = None


class Run:
    """What a callback sees.

    Attributes:
        model, data, settings: as :func:`fit` was given them; data is where the model is.
        folder: where it writes, or None.
        history: the evaluations until now.
        processes: which process this is.
        stopped: why training is to end after this step, or None.
    """

    def __init__(
        self, model: VAE, data: Data, settings: Settings, folder: Path | None = None, processes: Processes | None = None
    ):
        self.model, self.data, self.settings, self.folder = model, data, settings, folder
        self.processes = processes or Processes()
        s = settings
        options = ("batch_size", "accumulate", "estimator", "n_samples", "optimizer", "lr", "lr_warmup", "clip", "ema")
        options += ("beta", "beta_warmup", "free_bits", "precision")
        self.learner = AEVB(
            model,
            len(data.train),
            **{name: getattr(s, name) for name in options},
            total_steps=s.steps if s.schedule == "cosine" else None,
            skip_non_finite=s.non_finite == "skip",
            processes=self.processes,
        )
        rank, world_size = self.processes.rank, self.processes.world_size
        self.step = make_step(self.learner, data.train, seed=s.seed, rank=rank, world_size=world_size)
        self.history = History()
        self.stopped = None
        self._seconds, self._started = 0.0, time.perf_counter()

    @property
    def steps(self) -> int:
        """Steps taken, counted from the beginning of the run, whichever process took them."""
        return self.learner.steps

    @property
    def samples_seen(self) -> int:
        """Data points trained on."""
        return self.steps * self.settings.batch_size

    @property
    def seconds(self) -> float:
        """Time spent training, before and after interruptions."""
        return round(self._seconds + time.perf_counter() - self._started, 3)

    def stop(self, reason: str) -> None:
        """End training after this step."""
        self.stopped = self.stopped or reason

    def averaged(self):
        """A context in which the model has the parameters that are evaluated: their average, where there is one."""
        return self.learner.average.in_place() if self.learner.average else nullcontext()

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """What the run has become: tensors by name, and what JSON can hold.

        Order and noise are not in it: they are functions of the settings and of the steps taken.
        """
        learner = self.learner
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": t for i, name, t in self._optimizer_state()}
        if learner.average:
            tensors |= {f"average.{name}": t for name, t in learner.average.named()}
        tensors |= {f"objective.{name}": t for name, t in self._schedules().items()}
        # For a model of one's own that draws: dropout.
        tensors["random.cpu"] = torch.get_rng_state()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        values = {
            "steps": self.steps,
            "seconds": self.seconds,
            "history": [asdict(record) for record in self.history],
            "scaler": learner.scaler and learner.scaler.state_dict(),
        }
        return {name: t.detach() for name, t in tensors.items()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Become what :meth:`state` was called on. Call it before the first step.

        Raises:
            ValueError: the tensors are of another model or another optimizer.
        """
        learner = self.learner
        try:
            self.model.load_state_dict(_below(tensors, "model."))
        except RuntimeError as error:
            raise ValueError(f"the checkpoint is of another model: {error}") from None
        state = {}
        for name, t in _below(tensors, "optimizer.").items():
            i, _, key = name.partition(".")
            state.setdefault(int(i), {})[key] = t.clone()
        groups = learner.optimizer.state_dict()["param_groups"]
        learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if learner.average:
            for name, t in learner.average.named():
                t.copy_(tensors[f"average.{name}"])
        for name, t in self._schedules().items():
            t.copy_(tensors[f"objective.{name}"])
        torch.set_rng_state(tensors["random.cpu"].cpu())
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), next(self.model.parameters()).device)
        if learner.scaler:
            learner.scaler.load_state_dict(values["scaler"])
        learner.steps = values["steps"]
        learner.tally.begin_at(values["steps"])
        self.history = History(Record(**record) for record in values["history"])
        self._seconds, self._started = values["seconds"], time.perf_counter()

    def _optimizer_state(self):
        for i, state in self.learner.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield i, name, value

    def _schedules(self) -> dict[str, Tensor]:
        elbo = self.learner.objective.elbo
        return {} if elbo is None else elbo.state_dict()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
