"""Ablation: which of the settings that the paper leaves open brings the curves of Figure 2 closest to the paper's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from .._files import write_csv, write_whole
from .._types import StrPath
from ..configuration.choices import FIGURES
from ..configuration.saved_run import SavedRun
from . import figure2, published
from .figure2 import TITLES
from .planning import PlannedRun, configured, evaluation_at
from .presentation import NAMES, environments, markdown_table, page

__all__ = ["QUICK", "SAMPLES", "TITLE", "plan", "present"]

TITLE = FIGURES["ablation"].title
# Training samples of each curve, by default and with --quick.
SAMPLES, QUICK = 10**6, 2 * 10**5

_CURVES = (
    ("mnist", 3, "aevb"),
    ("mnist", 20, "aevb"),
    ("mnist", 200, "aevb"),
    ("freyface", 10, "aevb"),
    ("mnist", 5, "wake-sleep"),
    ("mnist", 200, "wake-sleep"),
    ("freyface", 20, "wake-sleep"),
)

# The paper chose the stepsize among three, on the first few iterations (section 5), and does not say which. Nor does it
# say which of its two estimators is plotted, or how fast log-variances are learnt. It says that minibatches have 100
# points, but its curves of Frey Face have points at multiples of 500 samples only.
_CHANGES: dict[str, dict[str, Any]] = {
    "as in Figure 2": {},
    "estimator A": {"estimator": "a"},
    "estimator B": {"estimator": "b"},
    "stepsize 0.01": {"lr": 0.01},
    "log-variances as fast as the rest": {"logvar_scale": 1.0},
    "log-variances a tenth as fast": {"logvar_scale": 0.1},
    "minibatches of 500": {"batch_size": 500},
}


def plan(samples_seen: int, seeds: int, data_dir: StrPath | None = None) -> list[PlannedRun]:
    """Some curves of Figure 2, with its settings and with one change each."""
    return [
        _changed(run, change)
        for seed in range(seeds)
        for data, latent, learner in _CURVES
        for run in [figure2.planned(data, learner, latent, figure2.budget(samples_seen, seed), seed, data_dir)]
        for change in _CHANGES.values()
        # Skip changes to the value that the run has already; and Wake-Sleep has no estimator.
        if change.keys() <= run.keys.keys() and (not change or not change.items() <= run.keys.items())
    ]


def _changed(run: PlannedRun, change: dict) -> PlannedRun:
    name = "".join(f"-{key}-{value}" for key, value in change.items())
    return replace(run, name=run.name + name, keys=run.keys | change)


def present(runs: dict[str, SavedRun], out: Path, data_dir: StrPath | None = None) -> str:
    """Write ablation.csv and ablation.md into ``out``; returns the page."""
    header = ("data", "latent", "learner", "change", "seed", "samples_seen", "train", "test", "the paper's test")
    rows = []
    for run in runs.values():
        *curve, seed = figure2.about(run)
        for samples, (theirs, _) in published.FIGURE2[tuple(curve)].items():
            if line := evaluation_at(run, samples):
                values = (round(line["train"], 1), round(line["test"], 1), theirs)
                rows.append((*curve, _change(run), seed, line["samples_seen"], *values))
    rows.sort(key=lambda row: (_CURVES.index(row[:3]), row[5] > 2 * SAMPLES, list(_CHANGES).index(row[3]), row[4]))
    rows = [(TITLES[data], latent, NAMES[learner], *rest) for data, latent, learner, *rest in rows]
    write_csv(out / "ablation.csv", header, rows)
    about = (
        "Nats per data point. The paper's stepsize is one of 0.01, 0.02 and 0.1, chosen on the first few iterations, "
        "and its estimator A or B; it says neither which. Figure 2 is drawn here with 0.02, A for MNIST, B for Frey "
        "Face, and log-variances (`--logvar-scale`) as fast as the rest for AEVB on MNIST, a tenth as fast elsewhere."
    )
    text = page(f"# {TITLE}", about, markdown_table(header, rows), environments(list(runs.values())))
    write_whole(out / "ablation.md", text.encode())
    return text


def _change(run: SavedRun) -> str:
    data, latent, learner, seed = figure2.about(run)
    usual, there = figure2.planned(data, learner, latent, 1, seed).keys, configured(run)
    keys = usual.keys() & {key for change in _CHANGES.values() for key in change}
    changed = {key: there[key] for key in keys if there[key] != usual[key]}
    return next(name for name, change in _CHANGES.items() if change == changed)
