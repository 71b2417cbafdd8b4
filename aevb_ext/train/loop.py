"""The training loop."""

import math
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from ..data import Data
from ..estimators import Bound
from ..learners.precision import matmul_precision
from ..models import VAE
from .callbacks import Callback
from .evaluation import shared_bound
from .folder import clean, new_folder, old_folder, rewind_metrics
from .joining import joined
from .keeper import Keeper, newest_whole, set_damaged_aside
from .logging import Progress, RunFiles
from .patience import Patience
from .processes import Processes
from .run import Log, Record, Result, Run
from .same import check_same, described
from .settings import Settings
from .signals import Signals, end_as

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
    resume: bool = False,
    override: Iterable[str] = (),
    keep: int = 3,
    checkpoint_every: int | None = None,
    validate: bool = True,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    settings: Settings | None = None,
    processes: Processes | None = None,
    **options,
) -> Result:
    """Train ``model`` on ``data`` by Auto-Encoding Variational Bayes (Algorithm 1).

    Each epoch visits every data point once, in a new order. The same settings, initial parameters and number of threads
    give the same run, on the CPU bit for bit. The bounds of the splits are on the same noise each time; the train bound
    is that of as many training points as there are test points.

    In a program that torchrun has started several times, each process calls this with the same arguments, and they
    train one model: the same steps as one process takes, to the order in which sums are taken.

    Args:
        model: the VAE, trained in place and left on ``device``.
        data: what to train on.
        device: where to train. ``"cuda"`` is, with several processes, the device of this one.
        out: a new or empty folder for config.json, metrics.jsonl, the pictures, best.safetensors (the model with the
            best held-out bound) and checkpoints/STEPS.safetensors, of which there is one of the beginning, one of each
            evaluation, and one when SIGTERM or SIGINT (Ctrl-C) ends the run, which it does after the step.
            None: nothing is written.
        resume: go on with the run in ``out`` from its newest checkpoint that is whole, as if it had never ended: on the
            CPU with the same number of threads bit for bit. What ``model`` has learnt is replaced.
        override: names of settings that may differ from the checkpoint's all the same, or of ``model.X`` and
            ``data.X`` (``"data"``: all of it). What changes no step (``log_every``, ``evaluate_every``, ``patience``,
            ``non_finite``; ``samples_seen`` where the schedule is constant) may differ without being named.
        keep: how many checkpoints stay, beside the best model.
        checkpoint_every: samples between checkpoints beside those at evaluations. None: there are only those.
        validate: check that the data lies in the support of the likelihood.
        progress: tell on stderr how it goes.
        callbacks: what else is to happen (:class:`~aevb_ext.train.Callback`).
        settings: every number that determines the run (:class:`~aevb_ext.train.Settings`).
        processes: those that train together. None: those that torchrun started, or this one alone.
        options: the same, one by one: ``samples_seen=``, ``batch_size=``, ``lr=``, ...

    Returns:
        The bounds at the end, and at evaluations on the way.

    Raises:
        ValueError: an argument is out of range; the data lies outside the likelihood's support; the run to go on with
            had other settings, another model or other data (each is named), or none of its checkpoints is whole.
        FileNotFoundError: there is no run to go on with.
        TypeError: an unknown option, or one beside ``settings``.
        OSError: the folder exists and is not empty, or cannot be written (a disk that is full): the checkpoints before
            are whole, and the run goes on from them once there is room.
        NonFiniteBound: the bound became infinite or NaN. The newest checkpoint is from before.
        PeerFailed: another process raised one of these before training, or ended in the middle of it.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came while there is a folder; a checkpoint was written, and its
            path is in the message. The exit status is 143 for SIGTERM.
    """
    run = None

    def doing() -> str:
        return "before training" if run is None else f"at step {run.steps}"

    with joined() if processes is None else nullcontext(processes) as processes, processes.watched(doing):
        # Until all have found that they can, nobody begins.
        with processes.together():
            settings = _settings(settings, options)
            device = processes.device(device)
            _check_share(settings, processes)
            if len(data.train) == 0 or len(data.test) == 0:
                raise ValueError(f"data must have train and test points, got {len(data.train)} and {len(data.test)}")
            if validate:
                model.decoder.check_support(data.train, model.x_scale, "data.train")
                model.decoder.check_support(data.test, model.x_scale, "data.test")
            _check_count("keep", keep)
            if checkpoint_every is not None:
                _check_count("checkpoint_every", checkpoint_every)
            if resume and out is None:
                raise ValueError("resume needs out, the folder of the run to go on with, got None")
            model.to(device)
            data = data.to(device)
        run = Run(model, data, settings, None if out is None else Path(out), processes)
        try:
            with processes.together():
                if out is not None and processes.is_first:
                    (old_folder if resume else new_folder)(out)
            if resume:
                _resume(run, override)
            keeper = None if out is None else Keeper(run, keep)
            with matmul_precision(settings.precision):
                return _train(run, keeper, checkpoint_every, _callbacks(run, progress, callbacks))
        finally:
            run.leave()


def _callbacks(run: Run, progress: bool, callbacks: Iterable[Callback]) -> list[Callback]:
    if not run.processes.is_first:
        return []
    own = [Progress(progress)]
    if run.folder is not None:
        own.append(RunFiles())
    if run.settings.patience is not None:
        own.append(Patience(run.settings.patience))
    return [*own, *callbacks]

    own = [Progress(progress)]


def _resume(run: Run, override: Iterable[str]) -> None:
    processes = run.processes
    with processes.together():
        path, tensors, content = newest_whole(run.folder)
        changed = check_same(path, content, described(run.model, run.data, run.settings), override)
        try:
            run.load_state(tensors, content["run"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        run.checkpoint = path
    found = processes.gather(run.steps)
    if len(set(found)) > 1:
        raise ValueError(
            f"resume: the newest checkpoints that the processes find are of steps {', '.join(map(str, found))}: out "
            "must be a folder that all of them share"
        )
    with processes.together():
        if processes.is_first:
            clean(run.folder)
            set_damaged_aside(run.folder, path)
            now = {"steps": run.steps, "samples_seen": run.samples_seen, "seconds": run.seconds, "changed": changed}
            rewind_metrics(run.folder / "metrics.jsonl", run.steps, now)


def _train(run: Run, keeper: Keeper | None, checkpoint_every: int | None, callbacks: list[Callback]) -> Result:
    settings = run.settings
    evaluations = evaluation_steps(settings)
    every = None if checkpoint_every is None else _steps_of(checkpoint_every, settings)
    # Without a folder there is nothing that a signal should wait for. A launcher of several processes repeats signals.
    with Signals(once=run.processes.are_several) if keeper else nullcontext() as signals:
        with run.processes.together():
            for callback in callbacks:
                callback.on_start(run)
            if run.steps == 0:
                # Whatever ends the run now, there is something to go on from.
                _checkpoint(run, keeper, callbacks)
        logged, logged_at = run.steps, run.seconds
        _ends(run, signals)
        while run.steps < settings.steps and not run.stopped:
            run.step()
            evaluates = run.steps in evaluations
            checkpoints = evaluates or (every is not None and run.steps % every == 0)
            _ends(run, signals, now=False)
            if not (checkpoints or run.steps % settings.log_every == 0 or run.stopped):
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
            _ends(run, signals)
            if checkpoints or run.stopped:
                _checkpoint(run, keeper, callbacks)
            # The time that an evaluation takes is not the steps'.
            logged, logged_at = run.steps, run.seconds
        number = _ends(run, signals)
    if number:
        name = signal.Signals(number).name
        end_as(number, f"{name}: training ended after step {run.steps}; it goes on from {run.checkpoint} (resume)")
    result = _result(run)
    with run.processes.together():
        for callback in callbacks:
            callback.on_end(run, result)
    return result


def _ends(run: Run, signals: Signals | None, now: bool = True) -> int:
    """The signal that ends the run, or 0; ``run.stopped`` afterwards says whether and why all processes end."""
    return run.agree(signals.received if signals else 0, now=now)


def _checkpoint(run: Run, keeper: Keeper | None, callbacks: list[Callback]) -> None:
    if keeper is None:
        return
    try:
        path = keeper.save()
    except FloatingPointError as error:
        raise _non_finite(run.steps, run, str(error)) from None
    if path is not None:
        for callback in callbacks:
            callback.on_checkpoint(run, path)


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
    last = f". The last good checkpoint is {run.checkpoint}" if run.checkpoint else ""
    return NonFiniteBound(
        f"{what} at step {step}: training stopped. Try a smaller stepsize (lr is {run.learner.lr:g}), and check the "
        f"data's scale{last}"
    )


def _settings(settings: Settings | None, options: dict) -> Settings:
    if settings is None:
        return Settings(**options)
    if options:
        raise TypeError(f"settings were given, and {', '.join(options)} beside them: give one or the other")
    return settings


def _check_share(settings: Settings, processes: Processes) -> None:
    parts = processes.world_size * settings.accumulate
    if processes.are_several and settings.batch_size % parts:
        raise ValueError(
            f"batch_size, of all processes together, must divide by the number of processes times accumulate, "
            f"{processes.world_size} * {settings.accumulate}, got {settings.batch_size}"
        )


def _check_count(name: str, value) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer, at least 1, got {value!r}")


def evaluate(run: Run) -> Record:
    """The bounds of the splits, of the averaged parameters where there is an average, each time on the same noise."""
    data, how = run.data, {"estimator": "a" if run.settings.estimator == "a" else "b"}
    how["n_samples"] = run.settings.n_samples
    with run.averaged():
        bounds = {"train": shared_bound(run.model, data.train, run.processes, count=len(data.test), **how)}
        bounds["test"] = shared_bound(run.model, data.test, run.processes, **how)
        if data.valid is not None:
            bounds["valid"] = shared_bound(run.model, data.valid, run.processes, **how)
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
        every = _steps_of(settings.evaluate_every, settings)
        return {*range(every, steps, every), steps}
    first, last = math.log10(_FIRST_EVALUATION), math.log10(steps * batch)
    count = max(0, math.ceil((last - first) * _EVALUATIONS_PER_DECADE))
    samples = (10 ** (first + i / _EVALUATIONS_PER_DECADE) for i in range(count))
    return {max(1, round(s / batch)) for s in samples if s < steps * batch} | {steps}


def _steps_of(samples: int, settings: Settings) -> int:
    return max(1, round(samples / settings.batch_size))
