"""The training loop."""

import math
from collections.abc import Iterable

import torch

from ..data import Data
from ..estimators import Bound, evaluate_bound
from ..learners.precision import matmul_precision
from ..models import VAE
from .callbacks import Callback
from .logging import Progress, RunFolder
from .run import Log, Record, Result, Run
from .settings import Settings

__all__ = ["NonFiniteBound", "fit"]

# The bound is evaluated where the paper's Figure 2 has detail: evenly in the logarithm of the samples seen.
_FIRST_EVALUATION = 10_000
_EVALUATIONS_PER_DECADE = 8


class NonFiniteBound(RuntimeError):
    """The bound became infinite or NaN; says at which step, and what to try."""


def fit(
    model: VAE,
    data: Data,
    *,
    device="cpu",
    out=None,
    validate: bool = True,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    settings: Settings | None = None,
    **options,
) -> Result:
    """Train ``model`` on ``data`` by Auto-Encoding Variational Bayes (Algorithm 1).

    Each epoch visits every data point once, in a new order. The same settings, initial parameters and number of threads
    give the same run, on the CPU bit for bit. The bounds of the splits are on the same noise each time; the train bound
    is that of as many training points as there are test points.

    Args:
        model: the VAE, trained in place and left on ``device``.
        data: what to train on.
        device: where to train.
        out: a new or empty folder for config.json, metrics.jsonl, checkpoint.pt (renewed at each evaluation) and the
            pictures. None: nothing is written.
        validate: check that the data lies in the support of the likelihood.
        progress: tell on stderr how it goes.
        callbacks: what else is to happen (:class:`~aevb_ext.train.Callback`).
        settings: every number that determines the run (:class:`~aevb_ext.train.Settings`).
        options: the same, one by one: ``samples_seen=``, ``batch_size=``, ``lr=``, ...

    Returns:
        The bounds at the end, and at evaluations on the way.

    Raises:
        ValueError: an argument is out of range; the data lies outside the likelihood's support.
        TypeError: an unknown option, or one beside ``settings``.
        OSError: the folder exists and is not empty, or cannot be written.
        NonFiniteBound: the bound became infinite or NaN. What the folder holds then is whole, from before.
    """
    settings = _settings(settings, options)
    device = _check_device(device)
    if len(data.train) == 0 or len(data.test) == 0:
        raise ValueError(f"data must have train and test points, got {len(data.train)} and {len(data.test)}")
    if validate:
        model.decoder.check_support(data.train, model.x_scale, "data.train")
        model.decoder.check_support(data.test, model.x_scale, "data.test")
    model.to(device)
    run = Run(model, data.to(device), settings)
    own = [Progress(progress)]
    if out is not None:
        own.append(RunFolder(out))
        run.folder = own[-1].path
    with matmul_precision(settings.precision):
        return _train(run, [*own, *callbacks])


def _train(run: Run, callbacks: list[Callback]) -> Result:
    settings = run.settings
    evaluations = evaluation_steps(settings)
    for callback in callbacks:
        callback.on_start(run)
    logged, logged_at = run.steps, run.seconds
    while run.steps < settings.steps and not run.stopped:
        run.step()
        evaluates = run.steps in evaluations
        if not (evaluates or run.steps % settings.log_every == 0 or run.stopped):
            continue
        totals = run.learner.tally.read(run.processes)
        if totals.non_finite and settings.non_finite == "stop":
            raise _non_finite(totals.first_bad_step, run)
        taken, seconds = (run.steps - logged) * settings.batch_size, run.seconds
        log = Log(
            run.samples_seen,
            run.steps,
            seconds,
            totals.bound,
            totals.reconstruction,
            totals.kl,
            run.learner.current_lr,
            run.learner.objective.current_beta,
            taken / max(seconds - logged_at, 1e-9),
            totals.non_finite,
        )
        for callback in callbacks:
            callback.on_log(run, log)
        if evaluates:
            record = evaluate(run)
            run.history.append(record)
            for callback in callbacks:
                callback.on_evaluation(run, record)
        # The time that an evaluation takes is not the steps'.
        logged, logged_at = run.steps, run.seconds
    result = _result(run)
    for callback in callbacks:
        callback.on_end(run, result)
    return result


def _result(run: Run) -> Result:
    # A run that was stopped between two evaluations ends with one too.
    if not run.history or run.history[-1].steps != run.steps:
        run.history.append(evaluate(run))
    last, counts = run.history[-1], {"train": min(len(run.data.train), len(run.data.test)), "test": len(run.data.test)}
    bounds = {name: Bound(getattr(last, name), getattr(last, f"{name}_stderr"), n) for name, n in counts.items()}
    if last.valid is not None:
        bounds["valid"] = Bound(last.valid, last.valid_stderr, len(run.data.valid))
    return Result(**bounds, history=run.history, stopped=run.stopped)


def _non_finite(step: int, run: Run, what: str = "the bound is not finite") -> NonFiniteBound:
    return NonFiniteBound(
        f"{what} at step {step}: training stopped. Try a smaller stepsize (lr is {run.learner.lr:g}), and check the "
        "data's scale"
    )


def _settings(settings: Settings | None, options: dict) -> Settings:
    if settings is None:
        return Settings(**options)
    if options:
        raise TypeError(f"settings were given, and {', '.join(options)} beside them: give one or the other")
    return settings


def _check_device(device) -> torch.device:
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not a device: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: torch {torch.__version__} sees no CUDA device here")
    return device


def evaluate(run: Run) -> Record:
    """The bounds of the splits, of the averaged parameters where there is an average, each time on the same noise."""
    data, how = run.data, {"estimator": "a" if run.settings.estimator == "a" else "b"}
    how["n_samples"] = run.settings.n_samples
    with run.averaged():
        bounds = {"train": evaluate_bound(run.model, data.train, count=len(data.test), **how)}
        bounds["test"] = evaluate_bound(run.model, data.test, **how)
        if data.valid is not None:
            bounds["valid"] = evaluate_bound(run.model, data.valid, **how)
    for name, bound in bounds.items():
        if not math.isfinite(bound.mean):
            raise _non_finite(run.steps, run, f"the {name} bound is {bound.mean}")
    values = {name: bound.mean for name, bound in bounds.items()}
    values |= {f"{name}_stderr": bound.stderr for name, bound in bounds.items()}
    return Record(run.samples_seen, run.steps, run.seconds, **values)


def evaluation_steps(settings: Settings) -> set[int]:
    """The steps after which there is an evaluation; the last is one."""
    steps, batch = settings.steps, settings.batch_size
    if settings.evaluate_every is not None:
        every = max(1, round(settings.evaluate_every / batch))
        return {*range(every, steps, every), steps}
    first, last = math.log10(_FIRST_EVALUATION), math.log10(steps * batch)
    count = max(0, math.ceil((last - first) * _EVALUATIONS_PER_DECADE))
    samples = (10 ** (first + i / _EVALUATIONS_PER_DECADE) for i in range(count))
    return {max(1, round(s / batch)) for s in samples if s < steps * batch} | {steps}
