"""Figure 4: the learnt data manifolds of models with two latent dimensions."""

from pathlib import Path

from .. import plots
from .._files import write_csv, write_whole
from .._types import StrPath
from ..configuration.choices import FIGURES
from ..configuration.saved_run import SavedRun
from ..train import load_checkpoint
from . import figure2
from .planning import PlannedRun
from .presentation import environments, markdown_table, page, png_bytes, show

__all__ = ["QUICK", "SAMPLES", "TITLE", "plan", "present"]

TITLE = FIGURES["figure4"].title
# Training samples of each model, by default and with --quick.
SAMPLES, QUICK = 10**7, 10**6

_TITLES = {"freyface": "(a) Learnt Frey Face manifold", "mnist": "(b) Learnt MNIST manifold"}


def plan(samples_seen: int, seeds: int, data_dir: StrPath | None = None) -> list[PlannedRun]:
    """A model with two latent dimensions for each dataset, of the first seed."""
    return [figure2.planned(data, "aevb", 2, samples_seen, data_dir=data_dir) for data in _TITLES]


def present(runs: dict[str, SavedRun], out: Path, data_dir: StrPath | None = None) -> str:
    """Write figure4.png, figure4.csv (the models' bounds) and figure4.md into ``out``; returns the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9.4), layout="constrained")
    for axes, run in zip(figure.subplots(1, len(runs)), runs.values(), strict=True):
        checkpoint = load_checkpoint(run.folder)
        show(axes, plots.manifold(checkpoint.model, checkpoint.image_shape or ()), _TITLES[run.config["data"]])
    write_whole(out / "figure4.png", png_bytes(figure))
    rows = bounds(runs)
    write_csv(out / "figure4.csv", BOUNDS, rows)
    about = (
        "The unit square, evenly, through the inverse of the Gaussian's distribution function to values of z; at each "
        "the mean of p(x | z) (the paper's appendix A). The bounds of the models, in nats per data point:"
    )
    parts = [f"# {TITLE}", "![The manifolds](figure4.png)", about, markdown_table(BOUNDS, rows)]
    text = page(*parts, environments(list(runs.values())))
    write_whole(out / "figure4.md", text.encode())
    return text


BOUNDS = ("data", "latent", "samples_seen", "train", "test", "test_stderr")


def bounds(runs: dict[str, SavedRun]) -> list[tuple]:
    """The bounds of the models whose pictures are shown."""
    last = [(run, run.evaluations[-1]) for run in runs.values()]
    return [
        (
            run.config["data"],
            run.config["model"]["latent"],
            line["samples_seen"],
            *(round(line[key], 2) for key in BOUNDS[3:]),
        )
        for run, line in last
    ]
