"""Figure 5: random samples from models of MNIST with few and many latent dimensions."""

from pathlib import Path

from .. import plots
from .._files import write_csv, write_whole
from .._types import StrPath
from ..configuration.choices import FIGURES
from ..configuration.saved_run import SavedRun
from ..train import load_checkpoint
from . import figure2
from .figure4 import BOUNDS, bounds
from .planning import PlannedRun
from .presentation import environments, markdown_table, page, png_bytes, show

__all__ = ["QUICK", "SAMPLES", "TITLE", "plan", "present"]

TITLE = FIGURES["figure5"].title
# Training samples of each model, by default and with --quick.
SAMPLES, QUICK = 10**7, 10**6

_LATENT = (2, 5, 10, 20)


def plan(samples_seen: int, seeds: int, data_dir: StrPath | None = None) -> list[PlannedRun]:
    """A model for each latent size, of the first seed."""
    return [figure2.planned("mnist", "aevb", latent, samples_seen, data_dir=data_dir) for latent in _LATENT]


def present(runs: dict[str, SavedRun], out: Path, data_dir: StrPath | None = None) -> str:
    """Write figure5.png, figure5.csv (the models' bounds) and figure5.md into ``out``; returns the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 4.3), layout="constrained")
    for axes, letter, run in zip(figure.subplots(1, len(runs)), "abcd", runs.values(), strict=True):
        checkpoint = load_checkpoint(run.folder)
        title = f"({letter}) {checkpoint.model.latent}-D latent space"
        show(axes, plots.samples(checkpoint.model, checkpoint.image_shape or ()), title)
    write_whole(out / "figure5.png", png_bytes(figure))
    rows = bounds(runs)
    write_csv(out / "figure5.csv", BOUNDS, rows)
    about = "The means of p(x | z) for 100 draws of z from the prior. The bounds of the models, in nats per data point:"
    parts = [f"# {TITLE}", "![The samples](figure5.png)", about, markdown_table(BOUNDS, rows)]
    text = page(*parts, environments(list(runs.values())))
    write_whole(out / "figure5.md", text.encode())
    return text
