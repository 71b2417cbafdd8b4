"""Training the runs of a figure side by side, each in a process of its own, and scoring them once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import data as datasets
from .._files import write_whole
from ..configuration.saved_run import SavedRun
from ..progress_bar import bar, training_bar
from ..train import load_checkpoint
from .planning import PlannedRun, split_keys

__all__ = ["cores", "scored_once", "train_all"]

_POLL = 0.5  # seconds between two checks of the runs' progress


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Training:
    run: PlannedRun
    process: subprocess.Popen
    log: Path


def train_all(runs: list[PlannedRun], folder: Path, *, workers: int | None = None) -> dict[str, str]:
    """Train runs that are not complete; runs that were begun are resumed.

    Ctrl-C ends all of them, each with a checkpoint, and the same call resumes them. If a run fails (diverges), it keeps
    its curve so far, and the others continue.

    Args:
        runs: the runs; the longest ones start first.
        folder: gets a subfolder for each run and beside it NAME.log with its output.
        workers: processes at a time. None: one for each core. They share the cores equally.

    Returns:
        The error message of each run that failed, by name.

    Raises:
        ValueError: a folder holds another run than the one planned (before anything is trained).
        KeyboardInterrupt: Ctrl-C.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = sorted((run for run in runs if not run.is_complete(folder)), key=lambda run: -run.samples_seen)
    workers = min(workers or cores(), max(1, len(waiting)))
    done = {run.name: _seen(folder / run.name) for run in waiting}
    failed = {}
    active: list[_Training] = []
    with _progress(waiting, done) as show, _terminated_at_exit(active):
        while waiting or active:
            while waiting and len(active) < workers:
                active.append(_begin(waiting.pop(0), folder, max(1, cores() // workers)))
            time.sleep(_POLL)
            for training in list(active):
                name = training.run.name
                done[name] = _seen(folder / name)
                if training.process.poll() is not None:
                    active.remove(training)
                    if training.process.returncode:
                        failed[name] = _last_line(training.log)
                        # No more samples will come: the progress bar counts a failed run as complete.
                        done[name] = training.run.samples_seen
            show(done, [training.run.name for training in active])
    return failed


def _begin(run: PlannedRun, folder: Path, threads: int) -> _Training:
    out = folder / run.name
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in run.keys.items()]
    begun = ["--resume"] if any(out.glob("checkpoints/*.safetensors")) else []
    log = folder / f"{run.name}.log"
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "aevb_ext", "train", f"--out={out}", *flags, *begun],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
    return _Training(run, process, log)


@contextmanager
def _terminated_at_exit(active: list[_Training]) -> Iterator[None]:
    """A context that leaves no process behind: it signals each to end, which it does after a checkpoint."""
    try:
        yield
    finally:
        for training in active:
            training.process.terminate()
        for training in active:
            training.process.wait()


@contextmanager
def _progress(runs: list[PlannedRun], done: dict[str, int]) -> Iterator[Callable[[dict[str, int], list[str]], None]]:
    """A progress bar over all samples on a terminal; elsewhere a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    total = sum(run.samples_seen for run in runs)
    # Averaged over a long period, since the bar stands still during evaluations.
    bar = training_bar(console, console.is_terminal, speed_estimate_period=300)
    task = bar.add_task("training", total=total, completed=sum(done.values()), state="")
    told = time.monotonic()

    def show(done: dict[str, int], active: list[str]) -> None:
        nonlocal told
        bar.update(task, completed=sum(done.values()), state=", ".join(active))
        if bar.disable and total and time.monotonic() - told >= 30:
            told = time.monotonic()
            left = bar.tasks[0].time_remaining
            ends = "" if left is None else f", {left / 60:.0f} min left"
            console.print(f"{sum(done.values()) / total:.0%} trained{ends}: {', '.join(active)}", highlight=False)

    with bar:
        yield show


def _seen(folder: Path) -> int:
    """The samples that a run has seen, from the last line of its metrics."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.path.getsize(file.name) - 4096))
            seen: int = json.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2])["samples_seen"]
            return seen
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # The run has not started yet, or is in the middle of writing a line.
        return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a message"


def scored_once(run: SavedRun, name: str, score: Callable[..., dict], repeats: int = 1) -> dict:
    """The result of ``score`` for the run's best model, kept in a file for as long as the model does not change.

    Args:
        run: the run; its folder gets NAME.json.
        name: the name of the score.
        score: called with the model, the test split and ``progress=``; returns a dict that JSON can hold.
        repeats: how often it passes through the test split, for the progress bar.
    """
    path, steps = run.folder / f"{name}.json", run.evaluations[-1]["steps"]
    if (found := _read_scores(path)).pop("steps", None) == steps:
        return found
    options, _, _ = split_keys(run.config)
    data = datasets.load(options.pop("data"), **options)
    with bar(f"{run.name}: {name}", repeats * len(data.test)) as progress:
        found = score(load_checkpoint(run.folder).model, data.test, progress=progress)
    write_whole(path, json.dumps({"steps": steps, **found}).encode())
    return found


def _read_scores(path: Path) -> dict:
    """The kept result; empty if the file is missing or damaged, so that it is computed again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    numbers = isinstance(found, dict) and all(type(value) in (int, float) for value in found.values())
    return found if numbers else {}
