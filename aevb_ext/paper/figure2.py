"""Figure 2: the bound against training samples, of AEVB and Wake-Sleep, for every latent size."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .._files import write_csv, write_whole
from .._types import StrPath
from ..configuration.choices import FIGURES
from ..configuration.saved_run import SavedRun
from ..estimators import evaluate_bound
from ..models import VAE
from . import published
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
from .training import scored_once

__all__ = ["LOGVAR_SCALE", "QUICK", "SAMPLES", "TITLE", "TITLES", "about", "budget", "plan", "planned", "present"]

TITLE = FIGURES["figure2"].title
# Training samples of each curve, by default and with --quick.
SAMPLES, QUICK = 10**7, 10**6

LATENT = {"mnist": (3, 5, 10, 20, 200), "freyface": (2, 5, 10, 20)}
_HIDDEN = {"mnist": 500, "freyface": 200}
_LIKELIHOOD = {"mnist": "bernoulli", "freyface": "gaussian"}
_ESTIMATOR = {"mnist": "a", "freyface": "b"}
# logvar_scale of the runs in which it is not 1.
LOGVAR_SCALE = {("mnist", "wake-sleep"): 0.1, ("freyface", "aevb"): 0.1, ("freyface", "wake-sleep"): 0.1}
TITLES = {"mnist": "MNIST", "freyface": "Frey Face"}
_LIMITS = {"mnist": (-160, -95), "freyface": (400, 1600)}
_LEARNERS = ("aevb", "wake-sleep")

# Evaluations with different noise, for the variance of the estimator.
_NOISES = 3

# Seeds beside the first only show the spread between seeds, for which shorter runs suffice.
_SPREAD_SAMPLES = 10**6


def plan(samples_seen: int, seeds: int, data_dir: StrPath | None = None) -> list[PlannedRun]:
    """Seed 0 of every curve to ``samples_seen``, the other seeds to a million samples at most."""
    return [
        planned(data, learner, latent, budget(samples_seen, seed), seed, data_dir)
        for seed in range(seeds)
        for data, sizes in LATENT.items()
        for latent in sizes
        for learner in _LEARNERS
    ]


def budget(samples_seen: int, seed: int) -> int:
    """The length of a seed's run, in training samples."""
    return samples_seen if seed == 0 else min(samples_seen, _SPREAD_SAMPLES)


def planned(
    data: str, learner: str, latent: int, samples_seen: int, seed: int = 0, data_dir: StrPath | None = None
) -> PlannedRun:
    """One curve, at the paper's settings (section 5).

    The paper does not say which estimator is plotted and how fast log-variances are learnt. Both are chosen so that the
    curves come closest to the paper's (docs/paper/differences.md). The encoder that the first author published for
    Wake-Sleep learns log-variances a tenth as fast as the rest, the one for AEVB as fast.
    """
    keys = {
        "data": data,
        "learner": learner,
        "latent": latent,
        "hidden": _HIDDEN[data],
        "likelihood": _LIKELIHOOD[data],
        "logvar_scale": LOGVAR_SCALE.get((data, learner), 1.0),
        **({"estimator": _ESTIMATOR[data]} if learner == "aevb" else {}),
        "optimizer": "adagrad",
        "lr": 0.02,
        "batch_size": 100,
        "samples_seen": samples_seen,
        "seed": seed,
    }
    return PlannedRun.of(f"{data}-{learner}-nz{latent}-seed{seed}", keys, data_dir)


def present(runs: dict[str, SavedRun], out: Path, data_dir: StrPath | None = None) -> str:
    """Write figure2.png, figure2.csv and figure2.md into ``out``; returns the page."""
    found = [run for run in runs.values() if run.evaluations]
    write_whole(out / "figure2.png", draw(found, published.curves2(data_dir)))
    header = ("data", "latent", "learner", "seed", *EVALUATION)
    write_csv(out / "figure2.csv", header, [row for run in found for row in evaluations(run, about(run))])
    text = _page(found)
    write_whole(out / "figure2.md", text.encode())
    return text


def draw(runs: list[SavedRun], curves: dict) -> bytes:
    """The paper's layout: a row for each dataset, a panel for each latent size; the paper's curves behind ours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.2), layout="constrained")
    *rows, below = figure.subfigures(len(LATENT) + 1, 1, height_ratios=(6, 6, 1))  # type: ignore[misc]  # an array of SubFigures
    for row, (data, sizes) in zip(rows, LATENT.items(), strict=True):
        for column, (axes, latent) in enumerate(zip(row.subplots(1, len(sizes)), sizes, strict=True)):
            for learner in _LEARNERS:
                for split, style in STYLES.items():
                    if theirs := curves.get((data, latent, learner, split)):
                        axes.plot(*theirs, style, color=PUBLISHED[learner], linewidth=2.5, zorder=1)
                    for run in runs:
                        if about(run)[:3] == (data, latent, learner):
                            axes.plot(*series(run, split), style, color=COLOURS[learner], linewidth=1, zorder=2)
            axes.set(xscale="log", xlim=(1e5, 1e8), ylim=_LIMITS[data])
            axes.set_title(f"{TITLES[data]}, $N_z$ = {latent}", fontsize=10)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.25)
            if column == 0:
                axes.set_ylabel("bound (nats per data point)", fontsize=9)
            if data == "freyface":
                axes.set_xlabel("training samples evaluated", fontsize=9)
    below.legend(handles=legend(_LEARNERS, bool(curves)), loc="center", ncols=4, fontsize=9, frameon=False)
    return png_bytes(figure)


def about(run: SavedRun) -> tuple[str, int, str, int]:
    """Data, latent dimensions, learner and seed of a run."""
    config = run.config
    return config["data"], config["model"]["latent"], config.get("learner", "aevb"), config.get("seed", 0)


def noise_variance(run: SavedRun) -> float:
    """The variance of the test bound over the noise of z, with the data points fixed."""

    def score(model: VAE, x: Tensor, progress: Callable[[int], None]) -> dict[str, float]:
        bound = evaluate_bound(model, x, repeats=_NOISES, progress=progress)
        # noise_stderr is that of the mean over all noises, whose variance is smaller by their number.
        return {"variance": _NOISES * bound.noise_stderr**2}  # type: ignore[operator]  # not None with repeats

    variance: float = scored_once(run, "noise-variance", score, _NOISES)["variance"]
    return variance


def _page(runs: list[SavedRun]) -> str:
    rows = [row for key, theirs in published.FIGURE2.items() for row in _compared(key, theirs, runs)]
    header = ("data", "latent", "learner", "samples", "ours, test", "the paper's", "ours - theirs", "train", "theirs")
    return page(
        f"# {TITLE}",
        "![The curves](figure2.png)",
        "Nats per data point. Where several seeds were trained, the mean and the range are of them. "
        + _variances(runs),
        markdown_table(header, rows),
        environments(runs),
        "Every value: [figure2.csv](figure2.csv).",
    )


def _variances(runs: list[SavedRun]) -> str:
    # The paper: "the estimator variance was small (< 1) and omitted".
    largest: dict[str, float] = {}
    for run in runs:
        if run.checkpoint:
            data, _, learner, _ = about(run)
            curve = f"{TITLES[data]}, {NAMES[learner]}"
            largest[curve] = max(largest.get(curve, 0.0), noise_variance(run))
    told = "; ".join(f"{curve}: {variance:.2g}" for curve, variance in largest.items())
    return f"Variance of the test bound over the noise alone ({_NOISES} noises), at most: {told}." if told else ""


def _compared(key: tuple, theirs: dict, runs: list[SavedRun]) -> list[tuple]:
    rows = []
    for samples, (test, train) in theirs.items():
        lines = [line for run in runs if about(run)[:3] == key and (line := evaluation_at(run, samples))]
        if lines:
            ours = sum(line["test"] for line in lines) / len(lines)
            ours_train = sum(line["train"] for line in lines) / len(lines)
            low, high = (pick(line["test"] for line in lines) for pick in (min, max))
            spread = f" ({low:.1f} to {high:.1f}, {len(lines)} seeds)" if len(lines) > 1 else ""
            rows.append(
                (
                    TITLES[key[0]],
                    key[1],
                    NAMES[key[2]],
                    power_of_ten(samples),
                    f"{ours:.1f}{spread}",
                    f"{test:.1f}",
                    f"{ours - test:+.1f}",
                    f"{ours_train:.1f}",
                    f"{train:.1f}",
                )
            )
    return rows
