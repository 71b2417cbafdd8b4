"""What the figures have in common to the eye."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..runs import SavedRun

__all__ = ["COLOURS", "NAMES", "PUBLISHED", "STYLES", "finished", "legend", "series", "show"]

NAMES = {"aevb": "AEVB", "wake-sleep": "Wake-Sleep", "mcem": "Monte Carlo EM"}
# Ours, and behind them the paper's, lighter.
COLOURS = {"aevb": "#c1121f", "wake-sleep": "#1b6e2e", "mcem": "#1d4e9e"}
PUBLISHED = {"aevb": "#f4b6b6", "wake-sleep": "#b4dcb4", "mcem": "#b3cbee"}

STYLES = {"test": "-", "train": "--"}


def legend(learners, with_published: bool) -> list[Line2D]:
    """What a legend shows: ours, and where there are any the paper's curves, of each learner and split."""
    kinds = [(COLOURS, 1.2, "")] + ([(PUBLISHED, 2.5, ", the paper's")] if with_published else [])
    return [
        Line2D([], [], color=colours[name], linestyle=style, linewidth=width, label=f"{NAMES[name]}, {split}{whose}")
        for name in learners
        for colours, width, whose in kinds
        for split, style in STYLES.items()
    ]


def series(run: SavedRun, split: str) -> tuple[list, list]:
    """Samples seen, and the value of a split then."""
    return [line["samples_seen"] for line in run.evaluations], [line[split] for line in run.evaluations]


def finished(figure: Figure) -> bytes:
    """A PNG."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def show(axes, canvas, title: str) -> None:
    """A canvas of :mod:`aevb_ext.plots`, dark where there is ink as in the paper, white between the images."""
    axes.imshow(canvas.nan_to_num(1.0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()
