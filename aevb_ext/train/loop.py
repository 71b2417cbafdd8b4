"""The training loop."""

import signal
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from .._messages import python_or_flags
from .._types import Device, StrPath
from ..configuration.run_folder import remove_partial_files, run_folder
from ..configuration.settings import Settings
from ..data import Data
from ..estimators import Bound
from ..learners.optimization import matmul_precision
from ..models import VAE
from .arguments import (
    check_arguments,
    check_data,
    check_model,
    check_support,
    checked_callbacks,
    settings_of,
    warn_of_range,
)
from .callbacks import Callback, ConfigFile, EarlyStopping, MetricsFile, Pictures, Progress
from .checkpoint_manager import (
    CheckpointManager,
    check_resume,
    newest_intact,
    run_description,
    sampled_splits,
    set_damaged_aside,
)
from .distributed import Processes, joined
from .evaluation import evaluate, evaluated_points, evaluation_steps, non_finite, steps_of
from .memory import explaining_out_of_memory
from .run import Log, Result, Run
from .signals import Signals, exit_as_signalled

__all__ = ["fit"]


def fit(
    model: VAE,
    data: Data,
    *,
    device: Device = "cpu",
    out: StrPath | None = None,
    resume: bool = False,
    override: Iterable[str] = (),
    keep: int = 3,
    checkpoint_every: int | None = None,
    validate: bool = True,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    settings: Settings | None = None,
    processes: Processes | None = None,
    **options: Any,
) -> Result:
    """Train ``model`` on ``data`` by Auto-Encoding Variational Bayes (Algorithm 1), or another ``learner``.

    Each epoch visits every data point once, in a new order. The same settings, initial parameters and number of threads
    give the same run, on the CPU bit for bit. The bounds of the splits are computed by the estimator used in training,
    with the same noise each time; the train bound is that of as many training points as there are test points. With
    ``score="marginal"``, marginal log-likelihoods are computed instead.

    If torchrun has started several processes, each calls this function with the same arguments, and together they train
    one model. They take the same steps as a single process, up to the order of summation. Random draws of the model
    itself (dropout) differ between processes, and are seeded when the run starts or resumes. Batch norms see their
    process's share of a minibatch, and their running statistics are those of the first process.

    Args:
        model: the VAE, trained in place and left on ``device``.
        data: the data to train on.
        device: where to train. With several processes, ``"cuda"`` means each process's own device.
        out: a new or empty folder for config.toml, metrics.jsonl, the pictures, best.safetensors (the model with the
            best held-out bound) and checkpoints/STEPS.safetensors. Checkpoints are written at the beginning, at each
            evaluation, and when SIGTERM or SIGINT (Ctrl-C) ends the run, which it does after the current step. None:
            nothing is written.
        resume: resume the run in ``out`` from its newest intact checkpoint, as if it had never ended: on the CPU with
            the same number of threads bit for bit. The parameters of ``model`` are replaced. ``data`` must be the same,
            but may have moved. It is compared completely if it is in memory with at most 256 MiB a split, else by 1000
            rows of each split.
        override: names of settings that may differ from the checkpoint's, or ``model.X`` and ``data.X`` (``"data"``:
            all of it). Settings that change no step (``log_every``, ``evaluate_every``, ``patience``, ``non_finite``;
            ``samples_seen`` if the schedule is constant) may always differ.
        keep: how many checkpoints are kept, beside the best model.
        checkpoint_every: samples between additional checkpoints. None: only those at evaluations.
        validate: check that the data lies in the support of the likelihood.
        progress: show progress on stderr.
        callbacks: instances of :class:`~aevb_ext.train.Callback`.
        settings: every number that determines the run (:class:`~aevb_ext.train.Settings`).
        processes: the processes that train together. None: those that torchrun started, or this one alone.
        options: settings one by one: ``samples_seen=``, ``batch_size=``, ``lr=``, ...

    Returns:
        The final bounds, and the history of evaluations.

    Warns:
        UserWarning: half of the steps or more change no parameter, since Adagrad's first steps only accumulate squared
            gradients; the range of the data does not suit the likelihood (:func:`~.arguments.warn_of_range`).

    Raises:
        ValueError: an argument is out of range; the model has nothing to learn; the data lies outside the likelihood's
            support; the run to resume had other settings, another model or other data (each is named), or none of its
            checkpoints is intact.
        FileNotFoundError: there is no run to resume.
        TypeError: an argument has another type; an unknown option, or an option beside ``settings``.
        OSError: the folder exists and is not empty, or cannot be written (such as on a full disk). Earlier checkpoints
            are intact, and the run can be resumed from them.
        BlockingIOError: another run is active in the folder, which is locked for as long as a run trains there.
        NonFiniteBound: the bound became infinite or NaN (with ``non_finite="skip"``: for all data points of an
            evaluation). The newest checkpoint was written before that.
        OutOfMemory: out of memory; the message says which settings to lower.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM ended a run with a folder; a checkpoint was written, and its
            path is in the message. The exit status is 143 for SIGTERM.
        PeerFailed: another process raised one of these before training, or ended during it.
    """
    run = None

    def doing() -> str:
        return "before training" if run is None else f"at step {run.steps}"

    check_arguments(
        device=device,
        out=out,
        resume=resume,
        override=override,
        keep=keep,
        checkpoint_every=checkpoint_every,
        validate=validate,
        progress=progress,
        processes=processes,
    )
    with joined() if processes is None else nullcontext(processes) as processes, processes.watched(doing):
        # No process starts before all of them have passed the checks.
        with processes.together():
            settings = settings_of(settings, options)
            device = processes.device(device)
            _check(settings, processes)
            callbacks = checked_callbacks(callbacks)
            check_model(model)
            check_data(data, model)
            found = check_support(model, data, processes) if validate else None
            model.to(device)
            data = data.to(device)
        if validate:
            warn_of_range(model, found, processes)
        with explaining_out_of_memory(doing, settings):
            run = Run(model, data, settings, processes=processes)
            try:
                with matmul_precision(settings.precision), ExitStack() as held:
                    # Leaving the progress bar restores the terminal, whatever ends the run.
                    bar = [held.enter_context(Progress())] if progress and processes.is_first else []
                    with processes.together():
                        if out is not None:
                            if processes.is_first:
                                held.enter_context(run_folder(out, resume=resume))
                            _take_folder(run, Path(out), resume, override)
                        callbacks = [*bar, *_callbacks(run), *callbacks] if processes.is_first else []
                    _check_steps(run)
                    if (silent := _silent_steps_warning(run)) and processes.is_first:
                        warnings.warn(silent, stacklevel=2)
                    run.begin()
                    return _train(run, keep, checkpoint_every, callbacks)
            finally:
                run.leave()


def _take_folder(run: Run, folder: Path, resume: bool, override: Iterable[str]) -> None:
    run.folder = folder
    if not resume:
        return
    path, tensors, content = newest_intact(folder)
    now = run_description(run.model, run.data, run.settings, like=content)
    run.changed, run.sampled = check_resume(path, content, now, override), sampled_splits(now)
    try:
        run.load_state(tensors, content["run"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    run.checkpoint = path
    if run.processes.is_first:
        remove_partial_files(folder)
        set_damaged_aside(folder, path)


def _check_steps(run: Run) -> None:
    found = run.processes.gather(run.steps)
    if len(set(found)) > 1:
        raise ValueError(
            f"resume: the newest checkpoints that the processes find are of steps {', '.join(map(str, found))}: out "
            "must be a folder that all of them share"
        )


def _callbacks(run: Run) -> list[Callback]:
    files = [] if run.folder is None else [ConfigFile(), MetricsFile(), Pictures()]
    patience = run.settings.patience
    return files if patience is None else [*files, EarlyStopping(patience)]


def _train(run: Run, keep: int, checkpoint_every: int | None, callbacks: list[Callback]) -> Result:
    settings = run.settings
    evaluations = evaluation_steps(settings)
    every = None if checkpoint_every is None else steps_of(checkpoint_every, settings)
    manager = None if run.folder is None else CheckpointManager(run, run.folder, keep)
    # Without a folder a signal ends the process at once. Launchers of several processes repeat signals.
    with Signals(once=run.processes.are_several) if manager else nullcontext() as signals:
        with run.processes.together():
            # Written before anything else, so that the run can be resumed whatever ends it.
            path = _save(run, manager) if run.steps == 0 else None
            for callback in callbacks:
                callback.on_start(run)
            _report_checkpoint(run, path, callbacks)
        run.agree()
        logged, logged_at = run.steps, run.seconds
        while run.steps < settings.steps and not run.stopped:
            run.step()
            _agree(run, signals, now=False)
            evaluates = run.steps in evaluations
            checkpoints = evaluates or run.stopped or (every is not None and run.steps % every == 0)
            if not (checkpoints or run.steps % settings.log_every == 0):
                continue
            totals = run.learner.totals.read(run.processes)
            if totals.non_finite and settings.non_finite == "stop":
                raise non_finite(totals.first_bad_step, run)
            taken, seconds = (run.steps - logged) * settings.samples_per_step, run.seconds
            log = Log(
                run.samples_seen,
                run.steps,
                seconds,
                totals.bound,
                totals.reconstruction,
                totals.kl,
                run.learner.last_lr,
                run.learner.objective.current_beta,
                taken / max(seconds - logged_at, 1e-9),
                totals.non_finite,
                totals.skipped if settings.non_finite == "skip" else None,
            )
            run.skipped += totals.skipped
            for callback in callbacks:
                callback.on_log(run, log)
            if evaluates:
                _evaluate(run, callbacks)
            # A signal during the evaluation, or a callback's wish to stop.
            _agree(run, signals)
            if checkpoints or run.stopped:
                _report_checkpoint(run, _save(run, manager), callbacks)
            # The time of an evaluation does not count for the training rate.
            logged, logged_at = run.steps, run.seconds
        _agree(run, signals)
    if number := signal.Signals.__members__.get(run.stopped or ""):
        exit_as_signalled(
            number,
            f"{run.stopped}: training ended after step {run.steps}; it goes on from {run.checkpoint} "
            f"({python_or_flags('resume=True', '--resume')})",
        )
    if not run.history or run.history[-1].steps != run.steps:
        # A run that was stopped between two evaluations is evaluated at its end too.
        _evaluate(run, callbacks)
    result = _result(run)
    with run.processes.together():
        for callback in callbacks:
            callback.on_end(run, result)
    return result


def _agree(run: Run, signals: Signals | None, now: bool = True) -> None:
    if signals and signals.received:
        run.stop(signal.Signals(signals.received).name)
    run.agree(now=now)


def _evaluate(run: Run, callbacks: list[Callback]) -> None:
    record = evaluate(run, callbacks)
    run.history.append(record)
    for callback in callbacks:
        callback.on_evaluation(run, record)


def _save(run: Run, manager: CheckpointManager | None) -> Path | None:
    try:
        return None if manager is None else manager.save()
    except FloatingPointError as error:
        raise non_finite(run.steps, run, str(error)) from None


def _report_checkpoint(run: Run, path: Path | None, callbacks: list[Callback]) -> None:
    if path is not None:
        for callback in callbacks:
            callback.on_checkpoint(run, path)


def _result(run: Run) -> Result:
    last = run.history[-1]
    bounds = {}
    for name, count in evaluated_points(run).items():
        skipped = getattr(last, f"{name}_skipped") or 0
        bounds[name] = Bound(getattr(last, name), getattr(last, f"{name}_stderr"), count - skipped, skipped=skipped)
    return Result(**bounds, history=run.history, stopped=run.stopped, skipped=run.skipped)


def _silent_steps_warning(run: Run) -> str | None:
    """A warning if half of the run's steps or more are Adagrad's silent ones, which change no parameter."""
    settings, steps, silent = run.settings, run.settings.steps, run.learner.schedule.silent
    # A resumed run has had this warning at its beginning.
    if run.steps or steps >= 2 * silent:
        return None
    least = 2 * silent * settings.samples_per_step
    return (
        f"of the run's {steps} steps {'none changes' if steps <= silent else f'only the last {steps - silent} change'} "
        f"parameters: Adagrad's first {silent} only accumulate squared gradients. Train for longer (samples_seen is "
        f"{settings.samples_seen}; {least} are {2 * silent} steps), take a smaller batch_size (it is "
        f'{settings.batch_size}), or optimizer "adam"'
    )


def _check(settings: Settings, processes: Processes) -> None:
    parts = processes.world_size * settings.accumulate
    if processes.are_several and settings.batch_size % parts:
        raise ValueError(
            f"batch_size, of all processes together, must be a multiple of the number of processes times accumulate, "
            f"{processes.world_size} * {settings.accumulate}, got {settings.batch_size}"
        )
