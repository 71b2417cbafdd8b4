"""What the figures share: their style, and the page that compares them with the paper's."""

import io
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ..configuration.saved_run import SavedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = [
    "COLOURS",
    "EVALUATION",
    "NAMES",
    "PUBLISHED",
    "STYLES",
    "environments",
    "evaluations",
    "legend",
    "markdown_table",
    "page",
    "png_bytes",
    "power_of_ten",
    "series",
    "show",
]

NAMES = {"aevb": "AEVB", "wake-sleep": "Wake-Sleep", "mcem": "Monte Carlo EM"}
# Ours, and behind them the paper's, lighter.
COLOURS = {"aevb": "#c1121f", "wake-sleep": "#1b6e2e", "mcem": "#1d4e9e"}
PUBLISHED = {"aevb": "#f4b6b6", "wake-sleep": "#b4dcb4", "mcem": "#b3cbee"}

STYLES: dict[str, Literal["-", "--"]] = {"test": "-", "train": "--"}


def legend(learners: Iterable[str], with_published: bool) -> "list[Line2D]":
    """The lines of a legend: ours for each learner and split and, if there are any, the paper's curves."""
    from matplotlib.lines import Line2D

    kinds = [(COLOURS, 1.2, "")] + ([(PUBLISHED, 2.5, ", the paper's")] if with_published else [])
    return [
        Line2D([], [], color=colours[name], linestyle=style, linewidth=width, label=f"{NAMES[name]}, {split}{whose}")
        for name in learners
        for colours, width, whose in kinds
        for split, style in STYLES.items()
    ]


def series(run: SavedRun, split: str) -> tuple[list[Any], list[Any]]:
    """Samples seen, and the values of a split at these evaluations."""
    return [line["samples_seen"] for line in run.evaluations], [line[split] for line in run.evaluations]


def png_bytes(figure: "Figure") -> bytes:
    """A PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def show(axes: "Axes", canvas: Tensor, title: str) -> None:
    """Show a canvas of :mod:`aevb_ext.plots` as dark ink on white as in the paper, with white between the images."""
    axes.imshow(canvas.nan_to_num(1.0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


EVALUATION = ("samples_seen", "train", "train_stderr", "test", "test_stderr")


def evaluations(run: SavedRun, about: tuple) -> list[tuple]:
    """A row for each evaluation of a run: ``about``, then ``EVALUATION``."""
    return [
        (*about, line["samples_seen"], *(round(line[key], 3) for key in EVALUATION[1:])) for line in run.evaluations
    ]


def power_of_ten(samples: int) -> str:
    """1000000 as 1e6."""
    return f"{samples:.0e}".replace("e+0", "e")


def markdown_table(header: tuple[str, ...], rows: list[tuple]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page(*parts: str) -> str:
    """A page of Markdown."""
    return "\n\n".join(parts) + "\n"


def environments(runs: list[SavedRun]) -> str:
    """The versions, machines and seeds with which runs were trained: one sentence for each distinct environment."""
    found: dict[str, set[int]] = {}
    for run in runs:
        keys = ("commit", "torch", "python", "machine", "device", "threads")
        about = json.dumps({key: run.environment.get(key) for key in keys})
        found.setdefault(about, set()).add(run.config.get("seed", 0))
    return "\n".join(
        "Trained by aevb_ext {commit}, torch {torch}, Python {python}, {machine}, {device}, {threads} thread(s) each; "
        "seeds {seeds}.".format(**json.loads(about), seeds=", ".join(map(str, sorted(seeds))))
        for about, seeds in found.items()
    )
