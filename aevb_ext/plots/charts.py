"""Charts as SVG within an HTML page, in the page's own colours and fonts."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._extras import of_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["bars", "lines"]

# Placeholder colours that are replaced in the SVG by the page's CSS variables, for light and dark mode.
_INK, _OFF = "#010203", "#010204"
_SERIES = [f"#f1000{i}" for i in range(1, 7)]
# Fallback colours for a chart without a page: in a notebook.
_OUTSIDE = ("#3b7dd8", "#d9731f", "#2f9e54", "#9b59c9", "#cc4477", "#8a8a1e")
# In inches: fits a third of a page and a phone without shrinking the letters.
_SIZE = (3.7, 2.4)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    # A hyphen as minus: every font has it.
    "axes.unicode_minus": False,
}


@of_extra("train", "aevb_ext.plots")
def lines(
    name: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ylabel: str,
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
    log_x: bool = False,
    bottom: float | None = None,
) -> str:
    """Curves over training samples seen.

    Args:
        name: the accessible name of the chart, unique on its page.
        series: label to ``(samples seen, values)``. More than six repeat the colours, dashed.
        ylabel: the label of the y axis.
        errors: label to standard errors, drawn as a band around the curve.
        log_x: use a logarithmic axis for samples seen.
        bottom: the lower end of the y axis. None: by the values.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        drawn = {}
        for i, (label, (seen, values)) in enumerate(series.items()):
            if not len(seen):
                continue  # without a line, but the others keep their colours
            colour, dashes = _SERIES[i % len(_SERIES)], ["-", "--", ":"][i // len(_SERIES) % 3]
            drawn[label] = axes.plot(seen, values, dashes, color=colour, marker="." if len(seen) == 1 else None)[0]
            if errors and label in errors:
                low = [v - e for v, e in zip(values, errors[label], strict=True)]
                high = [v + e for v, e in zip(values, errors[label], strict=True)]
                axes.fill_between(seen, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="training samples seen", ylabel=ylabel)
        if log_x:
            axes.set_xscale("log")
            left, right = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 30 * left else (1,)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if bottom is not None:
            axes.set_ylim(bottom=bottom)
        axes.grid(True)
        if len(series) > 1:
            _legend(axes, drawn)
        return _svg(figure, name)


@of_extra("train", "aevb_ext.plots")
def bars(name: str, heights: list[float], full: list[bool], xlabel: str, ylabel: str) -> str:
    """A bar for each height, in colour if ``full`` is true for it, else in grey."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.bar(range(len(heights)), heights, color=[_SERIES[0] if on else _OFF for on in full])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # a MaxNLocator
        axes.grid(True, axis="y")
        return _svg(figure, name)


def _legend(axes: "Axes", drawn: "Mapping[str, Line2D]") -> None:
    """Draw the legend. Labels are plain text: not parsed as mathematics, nor hidden if they begin with _."""
    legend = axes.legend(drawn.values(), map(str, range(len(drawn))))
    for text, label in zip(legend.get_texts(), drawn, strict=True):
        text.set_parse_math(False)
        text.set_text(label)


def _svg(figure: "Figure", name: str) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.patch.set_alpha(0)
    figure.axes[0].patch.set_alpha(0)
    FigureCanvasSVG(figure)
    file = io.StringIO()
    # No metadata, since the date would make equal charts differ.
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # Inside HTML an svg needs no namespaces; ids have to be unique on the page.
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn)
    prefix = re.sub(r"\W+", "-", name)
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", drawn)
    drawn = drawn.replace(_INK, "currentColor").replace(_OFF, "var(--off, #999)")
    for i, colour in enumerate(_SERIES, 1):
        drawn = drawn.replace(colour, f"var(--series-{i}, {_OUTSIDE[i - 1]})")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
