"""Which of the settings that the paper leaves open moves the curves of Figure 2 to where it has them."""

from dataclasses import replace
from pathlib import Path

from .._files import write_csv, write_whole
from ..runs import SavedRun
from . import figure2, published
from .figure2 import TITLES
from .page import environments, markdown_table, page
from .planned import Planned, at

__all__ = ["QUICK", "SAMPLES", "TITLE", "plan", "present"]

TITLE = "Ablation: what the paper leaves open, one change at a time"
# Training samples of each curve, by default and with --quick.
SAMPLES, QUICK = 10**6, 2 * 10**5

_CURVES = (("mnist", 3), ("mnist", 20), ("mnist", 200), ("freyface", 10))

# The paper chose the stepsize among three, on the first few iterations (section 5), and does not say which; nor does it
# say which of its two estimators is plotted.
_CHANGES = {
    "as in Figure 2": {},
    "estimator A": {"estimator": "a"},
    "estimator B": {"estimator": "b"},
    "stepsize 0.01": {"lr": 0.01},
}


def plan(samples_seen: int, seeds: int, data_dir=None) -> list[Planned]:
    """Some curves of Figure 2, as it has them and with one change each."""
    return [
        _changed(run, change)
        for seed in range(seeds)
        for data, latent in _CURVES
        for run in [figure2.planned(data, "aevb", latent, figure2.budget(samples_seen, seed), seed, data_dir)]
        for change in _CHANGES.values()
        # What is as it was is no change.
        if not change or not change.items() <= run.keys.items()
    ]


def _changed(run: Planned, change: dict) -> Planned:
    name = "".join(f"-{key}-{value}" for key, value in change.items())
    return replace(run, name=run.name + name, keys=run.keys | change)


def present(runs: dict[str, SavedRun], out: Path, data_dir=None) -> str:
    """Write ablation.csv and ablation.md into ``out``; returns the page."""
    header = ("data", "latent", "change", "seed", "samples_seen", "train", "test", "the paper's test")
    rows = []
    for run in runs.values():
        data, latent, _, seed = figure2.about(run)
        for samples, (theirs, _) in published.FIGURE2[data, latent, "aevb"].items():
            if line := at(run, samples):
                values = (round(line["train"], 1), round(line["test"], 1), theirs)
                rows.append((data, latent, _change(run), seed, line["samples_seen"], *values))
    rows.sort(
        key=lambda row: (_CURVES.index((row[0], row[1])), row[4] > 2 * SAMPLES, list(_CHANGES).index(row[2]), row[3])
    )
    rows = [(TITLES[row[0]], *row[1:]) for row in rows]
    write_csv(out / "ablation.csv", header, rows)
    about = (
        "Nats per data point. The paper's stepsize is one of 0.01, 0.02 and 0.1, chosen on the first few iterations, "
        "and its estimator A or B; it says neither which. Figure 2 is drawn here with 0.02, A for MNIST, B for Frey."
    )
    text = page(f"# {TITLE}", about, markdown_table(header, rows), environments(list(runs.values())))
    write_whole(out / "ablation.md", text.encode())
    return text


def _change(run: SavedRun) -> str:
    data, latent, learner, seed = figure2.about(run)
    usual = figure2.planned(data, learner, latent, 1, seed).keys
    changed = {key: run.config[key] for key in ("estimator", "lr") if run.config[key] != usual[key]}
    return next(name for name, change in _CHANGES.items() if change == changed)
