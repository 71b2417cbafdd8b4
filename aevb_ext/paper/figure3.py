"""Figure 3: the marginal log-likelihood of AEVB, Monte Carlo EM and Wake-Sleep, for few and many training points."""

from pathlib import Path

from .._files import write_csv, write_whole
from .._types import StrPath
from ..configuration.choices import FIGURES
from ..configuration.saved_run import SavedRun
from . import published
from .figure2 import LOGVAR_SCALE
from .planning import PlannedRun, evaluation_at
from .presentation import (
    COLOURS,
    EVALUATION,
    NAMES,
    PUBLISHED,
    STYLES,
    environments,
    evaluations,
    legend,
    markdown_table,
    page,
    png_bytes,
    power_of_ten,
    series,
)

__all__ = ["QUICK", "SAMPLES", "TITLE", "plan", "present"]

TITLE = FIGURES["figure3"].title
# Training samples of each curve, by default and with --quick.
SAMPLES, QUICK = 10**7, 10**6

_POINTS = (1000, 50000)
_EVALUATIONS = 10


def plan(samples_seen: int, seeds: int, data_dir: StrPath | None = None) -> list[PlannedRun]:
    """All three learners with 1000 training points, and with 50000 too unless the budget is that of --quick."""
    points = _POINTS[:1] if samples_seen <= QUICK else _POINTS
    return [
        planned(count, learner, samples_seen, seed, data_dir)
        for seed in range(seeds)
        for count in points
        for learner in NAMES
    ]


def planned(count: int, learner: str, samples_seen: int, seed: int = 0, data_dir: StrPath | None = None) -> PlannedRun:
    """One curve, at the paper's settings (section 5, appendices D and E): 100 hidden units, 3 latent dimensions."""
    keys = {
        "data": "mnist",
        "train_count": count,
        "learner": learner,
        "score": "marginal",
        "latent": 3,
        "hidden": 100,
        "likelihood": "bernoulli",
        **({"estimator": "a"} if learner == "aevb" else {}),
        "logvar_scale": LOGVAR_SCALE.get(("mnist", learner), 1.0),
        "optimizer": "adagrad",
        # The largest of the paper's three learning rates: with 0.02 no curve rises as fast as the paper's.
        "lr": 0.1,
        # Each step of Monte Carlo EM uses all the data.
        "batch_size": count if learner == "mcem" else 100,
        "samples_seen": samples_seen,
        "evaluate_every": samples_seen // _EVALUATIONS,
        "seed": seed,
    }
    return PlannedRun.of(f"mnist{count}-{learner}-nz3-seed{seed}", keys, data_dir)


def present(runs: dict[str, SavedRun], out: Path, data_dir: StrPath | None = None) -> str:
    """Write figure3.png, figure3.csv and figure3.md into ``out``; returns the page."""
    found = [run for run in runs.values() if run.evaluations]
    write_whole(out / "figure3.png", draw(found, published.curves3(data_dir)))
    header = ("training points", "learner", "seed", *EVALUATION)
    write_csv(out / "figure3.csv", header, [row for run in found for row in evaluations(run, _about(run))])
    text = _page(found)
    write_whole(out / "figure3.md", text.encode())
    return text


def draw(runs: list[SavedRun], curves: dict) -> bytes:
    """The paper's layout: a panel for each number of training points; the paper's curves behind ours."""
    points = [count for count in _POINTS if any(_about(run)[0] == count for run in runs)]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 4.5 * len(points), 4.8), layout="constrained")
    ends = max((line["samples_seen"] for run in runs for line in run.evaluations), default=SAMPLES) / 1e6
    for axes, count in zip(figure.subplots(1, len(points), squeeze=False)[0], points, strict=True):
        for learner in NAMES:
            for split, style in STYLES.items():
                if theirs := curves.get((count, learner, split)):
                    samples, values = theirs
                    axes.plot([s / 1e6 for s in samples], values, style, color=PUBLISHED[learner], linewidth=2.5)
                for run in runs:
                    if _about(run)[:2] == (count, learner):
                        samples, values = series(run, split)
                        axes.plot([s / 1e6 for s in samples], values, style, color=COLOURS[learner], linewidth=1.2)
        axes.set(xlim=(0, max(10, ends)), ylim=(-165, -100), title=f"{count:,} training points")
        axes.set(xlabel="training samples evaluated (millions)")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("marginal log-likelihood (nats per data point)")
    figure.legend(handles=legend(NAMES, bool(curves)), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return png_bytes(figure)


def _about(run: SavedRun) -> tuple:
    return run.config["train_count"], run.config["learner"], run.config.get("seed", 0)


def _page(runs: list[SavedRun]) -> str:
    header = ("training points", "learner", "samples", "ours, train", "the paper's", "ours, test", "the paper's")
    rows = []
    for (count, learner), theirs in published.FIGURE3.items():
        for samples, values in theirs.items():
            for run in runs:
                if _about(run)[:2] == (count, learner) and (line := evaluation_at(run, samples)):
                    ours = [f"{line[split]:.1f} +- {line[f'{split}_stderr']:.1f}" for split in ("train", "test")]
                    row = (f"{count:,}", NAMES[learner], power_of_ten(samples))
                    rows.append((*row, ours[0], f"{values[0]:.1f}", ours[1], f"{values[1]:.1f}"))
    return page(
        f"# {TITLE}",
        "![The curves](figure3.png)",
        "Marginal log-likelihood by the estimator of the paper's appendix D, nats per data point, of the first "
        "1000 training and the first 1000 test points; +- is the standard error over them.",
        markdown_table(header, rows),
        environments(runs),
        "Every value: [figure3.csv](figure3.csv).",
    )
