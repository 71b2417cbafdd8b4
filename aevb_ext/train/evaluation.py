"""Evaluations of a run: when, of what, and distributed over the processes."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import estimators
from .._messages import PlainError
from ..configuration.settings import Settings
from ..data import Rows
from ..estimators import Bound, bound_values
from ..models import VAE
from .callbacks import Callback
from .distributed import Processes
from .run import History, Record, Run

__all__ = [
    "NonFiniteBound",
    "evaluate",
    "evaluated_points",
    "evaluation_steps",
    "non_finite",
    "shared_bound",
    "shared_marginal",
    "steps_of",
]

# The bound is evaluated at points evenly spaced in the logarithm of the samples seen, as in the paper's Figure 2.
_FIRST_EVALUATION = 10_000
# A bound takes a second, a marginal likelihood minutes.
_EVALUATIONS_PER_DECADE = {"bound": 8, "marginal": 2}
# The marginal log-likelihood is estimated for this many data points of a split.
_MARGINAL_POINTS = 1000

# The paper's, for its Figure 3 (appendix D).
_MARGINAL: dict[str, Any] = {"n_samples": 50, "leapfrog_steps": 4}

# Data points are evaluated in blocks of this size, whatever the number of processes, so that the result does not depend
# on it, bit for bit.
_BLOCK = 1000


class NonFiniteBound(PlainError, RuntimeError):
    """The bound became infinite or NaN; the message says at which step, and what to try.

    Attributes:
        history: the evaluations so far.
    """

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


def non_finite(step: int | None, run: Run, what: str = "the bound is not finite") -> NonFiniteBound:
    """The error of a run whose bound, or what ``what`` names, is not finite."""
    last = f". The last good checkpoint is {run.checkpoint}" if run.checkpoint else ""
    return NonFiniteBound(
        f"{what} at step {step}: training stopped. Try a smaller learning rate (lr is {run.learner.lr:g}), and check "
        f"the data's scale{last}",
        run.history,
    )


def evaluate(run: Run, callbacks: Iterable[Callback] = ()) -> Record:
    """The scores of the splits, with averaged parameters if there is an average, and with the same noise each time."""
    settings, skip = run.settings, run.settings.non_finite == "skip"

    def score(name: str, count: int) -> Bound:
        x = getattr(run.data, name)
        if settings.score == "bound":
            how = {"estimator": settings.estimator, "n_samples": settings.n_samples}
            return shared_bound(run.model, x, run.processes, count=count, skip_non_finite=skip, **how)

        def tell(done: int) -> None:
            for callback in callbacks:
                callback.on_evaluating(run, name, done, count)

        return shared_marginal(run.model, x, run.processes, count=count, skip_non_finite=skip, progress=tell)

    # All processes must evaluate the same model, which the first one saves.
    run.processes.take_first(run.model.buffers())
    with run.averaged():
        bounds = {name: score(name, count) for name, count in evaluated_points(run).items()}
    for name, bound in bounds.items():
        if not math.isfinite(bound.mean):
            raise non_finite(run.steps, run, f"the {name} {settings.score} is {bound.mean}")
    values: dict[str, Any] = {name: bound.mean for name, bound in bounds.items()}
    values |= {f"{name}_stderr": bound.stderr for name, bound in bounds.items()}
    values |= {f"{name}_skipped": bound.skipped for name, bound in bounds.items() if bound.skipped}
    return Record(run.samples_seen, run.steps, run.seconds, **values)


def evaluated_points(run: Run) -> dict[str, int]:
    """How many first data points of each split are evaluated; for train as many as for test."""
    splits = {name: getattr(run.data, name) for name in ("train", "test", "valid")}
    counts = {name: len(split) for name, split in splits.items() if split is not None}
    counts["train"] = min(counts["train"], counts["test"])
    if run.settings.score == "marginal":
        # The marginal likelihood takes minutes, and the paper's Figure 3 shows these two splits.
        counts = {name: min(_MARGINAL_POINTS, counts[name]) for name in ("train", "test")}
    return counts


def evaluation_steps(settings: Settings) -> set[int]:
    """The steps after which there is an evaluation, including the last step."""
    steps, batch = settings.steps, settings.samples_per_step
    if settings.evaluate_every is not None:
        every = steps_of(settings.evaluate_every, settings)
        return {*range(every, steps, every), steps}
    first, last = math.log10(_FIRST_EVALUATION), math.log10(steps * batch)
    per_decade = _EVALUATIONS_PER_DECADE[settings.score]
    count = max(0, math.ceil((last - first) * per_decade))
    samples = (10 ** (first + i / per_decade) for i in range(count))
    return {max(1, round(s / batch)) for s in samples if s < steps * batch} | {steps}


def steps_of(samples: int, settings: Settings) -> int:
    """The number of steps, at least one, that take about ``samples`` training samples."""
    return max(1, round(samples / settings.samples_per_step))


def shared_bound(
    model: VAE,
    x: Tensor | Rows,
    processes: Processes,
    *,
    count: int | None = None,
    skip_non_finite: bool = False,
    **how: Any,
) -> Bound:
    """The same as :func:`~aevb_ext.estimators.evaluate_bound`; each process computes a share of it.

    Args:
        model, x, count: as in ``evaluate_bound``, the same in all processes.
        processes: the processes that share the blocks of data points.
        skip_non_finite: leave out values that are not finite, as in :meth:`.Bound.of`.
        how: ``estimator=``, ``n_samples=``, ``seed=``, as in ``evaluate_bound``.

    Returns:
        The same bits in each process, and with any number of processes.
    """
    values = _shared(lambda **part: bound_values(model, x, **part, **how), model, x, processes, count)
    return Bound.of(values, skip_non_finite=skip_non_finite)


def shared_marginal(
    model: VAE,
    x: Tensor | Rows,
    processes: Processes,
    *,
    count: int | None = None,
    skip_non_finite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Bound:
    """The mean of the marginal log-likelihood by the estimator of appendix D; each process computes a share of it.

    It uses 4 leapfrog steps and 50 samples a data point, as for the paper's Figure 3.

    Args:
        model, x, processes, count, skip_non_finite: as in :func:`shared_bound`.
        progress: called repeatedly with the number of data points done.
    """

    def values(first: int, count: int) -> Tensor:
        return estimators.marginal_likelihood(
            model, x, first=first, count=count, progress=lambda done: progress(first + done), **_MARGINAL
        ).values

    return Bound.of(_shared(values, model, x, processes, count), skip_non_finite=skip_non_finite)


def _shared(
    values_of: Callable[..., Tensor], model: VAE, x: Tensor | Rows, processes: Processes, count: int | None
) -> Tensor:
    """The value of each data point, float64 ``[n]``."""
    n = len(x) if count is None else min(len(x), count)
    blocks = range(0, n, _BLOCK)
    found = {
        first: values_of(first=first, count=min(_BLOCK, n - first))
        for first in blocks[processes.rank :: processes.world_size]
    }
    values = torch.zeros(n, dtype=torch.float64, device=next(model.parameters()).device)
    for first, block in found.items():
        values[first : first + len(block)] = block
    # In each process everything but its own share is 0, so the sum is exact.
    return processes.sum(values)
