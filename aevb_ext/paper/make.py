"""Making a figure of the paper by its name."""

import sys
from pathlib import Path
from types import ModuleType

from .._types import StrPath
from ..plots.evaluations import duration
from . import ablation, figure2, figure3, figure4, figure5, iwae, planning
from .training import cores, train_all

__all__ = ["FIGURES", "make"]

# Each module has TITLE, SAMPLES, QUICK, plan(samples_seen, seeds, data_dir) and present(runs, out, data_dir).
FIGURES: dict[str, ModuleType] = {
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": figure5,
    "iwae": iwae,
    "ablation": ablation,
}


def make(
    figure: str,
    out: StrPath,
    *,
    data_dir: StrPath | None = None,
    samples_seen: int | None = None,
    seeds: int = 1,
    quick: bool = False,
    workers: int | None = None,
) -> dict[str, str]:
    """Train a figure's runs into ``out/runs``, draw it, and write its values and a page that compares them.

    Complete runs are not trained again, and runs that were begun are resumed: figures share runs, and a call that was
    interrupted can be repeated. The expected time is printed on stderr first.

    Args:
        figure: ``"figure2"`` ... ``"figure5"``, ``"iwae"`` or ``"ablation"``.
        out: a folder; FIGURE.png, FIGURE.csv and FIGURE.md are written there.
        data_dir: has the datasets and, in ``paper/``, optionally the curves read off the paper's figures.
        samples_seen: the budget: training samples of each curve. None: the figure's own.
        seeds: the number of seeds of each curve (those beside the first are shorter in Figure 2).
        quick: use a budget of a few minutes.
        workers: how many runs are trained at a time. None: one for each core.

    Returns:
        The error message of each run that failed, by name; the figure has its curve up to the failure.

    Raises:
        ValueError: an unknown figure; a number out of range; a folder with a run of other settings, which are named.
        FileNotFoundError: the data is not there; the message says where it was searched.
    """
    if figure not in FIGURES:
        raise ValueError(f"figure must be one of {', '.join(FIGURES)}, got {figure!r}")
    for name, value in (("samples_seen", samples_seen), ("seeds", seeds), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    one, out = FIGURES[figure], Path(out)
    runs = one.plan(samples_seen or (one.QUICK if quick else one.SAMPLES), seeds, data_dir)
    folder = out / "runs"
    left = [run for run in runs if not run.is_complete(folder)]
    if left:
        side_by_side = min(workers or cores(), len(left))
        taken = duration(planning.estimated_seconds(left) / side_by_side)
        samples = sum(run.samples_seen for run in left)
        print(
            f"{figure}: {len(left)} of {len(runs)} runs to train, {samples:,} samples: about {taken} in "
            f"{side_by_side} process(es), evaluations apart",
            file=sys.stderr,
        )
    failed = train_all(left, folder, workers=workers)
    saved = {run.name: found for run in runs if (found := run.saved(folder)) is not None and found.evaluations}
    if saved:
        one.present(saved, out, data_dir)
    return failed
