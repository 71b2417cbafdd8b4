"""The pictures of a results file."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, StrMethodFormatter

from .cases import BEYOND_CACHES, FLOOR, cases
from .check import best, ratio
from .report import KINDS
from .training import PARTS, trainings

# Okabe and Ito's colours, which the colour-blind tell apart; ours is the dark one.
COLOURS = {"ours": "#0072B2", "eager": "#999999", "compile": "#E69F00", "jax": "#009E73"}
PART_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#CCCCCC")
NAMES = {"ours": "aevb_ext", **KINDS}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 90,
}


def draw(results: dict, folder: Path) -> Iterator[Path]:
    """Write every picture that the results have figures for; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    large = [figures for figures in results["cases"] if figures["floor_bytes"] > BEYOND_CACHES]
    pictures = {
        "operators": (operators, large),
        "ratios": (ratios, results["cases"] + results["training"]),
        "memory": (memory, [figures for figures in results["cases"] if figures["elements"] >= 1e6]),
        "scaling": (scaling, results["by_elements"]),
        "threads": (threads, results["by_threads"]),
        "step": (training_step, results["training"]),
        "batches": (batches, results.get("by_batch", [])),
    }
    for name, (picture, figures) in pictures.items():
        if figures:
            yield save(picture, figures, results, folder / f"{results['type']}-{name}.png")


def save(picture, figures: list[dict], results: dict, path: Path) -> Path:
    with plt.rc_context(STYLE):
        figure = picture(figures, results)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)
    return path


def _title(figure, title: str, results: dict) -> None:
    count = results["threads"]
    threads = f", {count} thread{'s'[: count > 1]} ({results['aevb_ext']['cpu_in_use']})" if count else ""
    note = f"{results['device']}{threads}, torch {results['torch']}"
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.1 / height, title, ha="left", va="top", weight="bold", fontsize=12)
    figure.text(0.01, 1 - 0.34 / height, note, ha="left", va="top", color="#555555")


def _layout(figure, caption: str = "") -> None:
    """Make room for the title above and the legend (and a caption) below."""
    height = figure.get_figheight()
    if caption:
        figure.text(0.01, 0.32 / height, caption, ha="left", va="bottom", fontsize=8, color="#555555")
    below = 0.35 + 0.16 * (caption.count("\n") + 1 if caption else 0)
    figure.tight_layout(rect=(0, below / height, 1, 1 - 0.6 / height))


def _handles(kinds, marker=True) -> list:
    if marker:
        return [Line2D([], [], marker="o", ls="", color=COLOURS[kind], label=NAMES[kind]) for kind in kinds]
    return [Patch(color=COLOURS[kind], label=NAMES[kind]) for kind in kinds]


def _value(figures: dict, kind: str, of: str = "seconds") -> float | None:
    found = best(figures[of], kind)
    return found and found[1]


def _kinds(table: list[dict]) -> list[str]:
    return [kind for kind in NAMES if any(best(figures["seconds"], kind) for figures in table)]


def _rows(axes, table: list[dict]) -> None:
    axes.set_yticks(range(len(table)), [figures["case"] for figures in table])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e5e5", which="major")
    axes.set_axisbelow(True)


def operators(table, results):
    """Time with the floor as a line in each row; and the floor's bytes over that time, up to the copy's speed."""
    figure, (times, speeds) = plt.subplots(1, 2, figsize=(11, 1.7 + 0.3 * len(table)), sharey=True, width_ratios=(3, 2))
    kinds = _kinds(table)
    bandwidth = results["copy_bytes_per_second"] / 1e9
    for y, figures in enumerate(table):
        floor = figures["seconds"]["copy"]
        for kind in kinds:
            if seconds := _value(figures, kind):
                style = {"color": COLOURS[kind], "s": 34, "zorder": 3, "linewidths": 0}
                times.scatter(seconds * 1e3, y, **style)
                speeds.scatter(figures["floor_bytes"] / seconds / 1e9, y, **style)
        times.plot([floor * 1e3] * 2, [y - 0.42, y + 0.42], color="black", lw=1.4)
    times.set_xscale("log")
    times.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    times.set_xlabel("ms, forward + backward (logarithmic)")
    speeds.set_xlabel("GB/s of the fewest bytes")
    speeds.set_xlim(0, bandwidth * 1.08)
    speeds.axvline(bandwidth, color="black", lw=1.4)
    speeds.axvline(bandwidth / FLOOR, color="black", lw=1, ls=":")
    for axes in (times, speeds):
        _rows(axes, table)
    floor = Line2D([], [], color="black", lw=1.4, label="floor: a copy of the fewest bytes")
    within = Line2D([], [], color="black", lw=1, ls=":", label=f"{FLOOR} floors")
    figure.legend(handles=[*_handles(kinds), floor, within], ncols=6, loc="lower left", bbox_to_anchor=(0, -0.0))
    _title(figure, "Time and bandwidth of each operator at its large sizes", results)
    _layout(figure)
    return figure


def ratios(table, results):
    """The time of the fastest rival of each kind over ours, and the targets."""
    asked = {str(case): case.asked for case in [*cases(results["type"]), *trainings(results["type"])]}
    kinds = [kind for kind in _kinds(table) if kind != "ours"]
    figure, axes = plt.subplots(figsize=(10, 1.7 + 0.42 * len(table)))
    height = 0.8 / len(kinds)
    for y, figures in enumerate(table):
        for i, kind in enumerate(kinds):
            measured = ratio(figures["seconds"], kind)
            if measured is None:
                continue
            place = y + (i - (len(kinds) - 1) / 2) * height
            axes.barh(place, measured - 1, height * 0.9, left=1, color=COLOURS[kind])
            axes.text(max(measured, 1) * 1.03, place, f"{measured:.1f}", va="center", fontsize=7, color="#333333")
            if wanted := asked.get(figures["case"], {}).get(kind):
                axes.plot([wanted] * 2, [place - height / 2, place + height / 2], color="black", lw=1.6)
    axes.set_xscale("log")
    axes.axvline(1, color="#555555", lw=1)
    axes.set_xlabel("times as long as aevb_ext (logarithmic): right of 1, aevb_ext is ahead")
    marks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] < t < axes.get_xlim()[1]]
    axes.set_xticks(marks, [f"{t:g}x" for t in marks])
    axes.xaxis.set_minor_locator(plt.NullLocator())
    _rows(axes, table)
    mark = Line2D([], [], color="black", lw=1.6, label="asked")
    figure.legend(handles=[*_handles(kinds, marker=False), mark], ncols=5, loc="lower left")
    _title(figure, "How many times as long the rivals take", results)
    _layout(figure)
    return figure


def memory(table, results):
    """The peak of forward + backward beyond the inputs."""
    kinds = _kinds(table)
    figure, axes = plt.subplots(figsize=(10, 1.7 + 0.42 * len(table)))
    height = 0.8 / len(kinds)
    for y, figures in enumerate(table):
        for i, kind in enumerate(kinds):
            if peak := _value(figures, kind, "peak_bytes"):
                place = y + (i - (len(kinds) - 1) / 2) * height
                axes.barh(place, peak / 1e6, height * 0.9, color=COLOURS[kind])
                axes.text(peak / 1e6 * 1.03, place, f"{peak / 1e6:.3g}", va="center", fontsize=7, color="#333333")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(plt.NullLocator())
    axes.set_xlabel("MB at once beyond the inputs (logarithmic)")
    _rows(axes, table)
    figure.legend(handles=_handles(kinds, marker=False), ncols=4, loc="lower left")
    _title(figure, "Peak memory of forward + backward", results)
    _layout(figure)
    return figure


def _panels(table, by: str, results, title: str):
    """A panel for each operator: yields the axes, its name, and (numbers, figures) of each kind."""
    names = list(dict.fromkeys(figures["operator"] for figures in table))
    figure, grid = plt.subplots(2, (len(names) + 1) // 2, figsize=(10, 6.4))
    _title(figure, title, results)
    panels = []
    for axes, name in zip(grid.flat, names, strict=False):
        curves = {}
        for kind in NAMES:
            points = [(f[by], f) for f in table if f["operator"] == name and _value(f, kind)]
            if points:
                curves[kind] = sorted(points, key=lambda point: point[0])
        axes.set_title(name)
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        panels.append((axes, curves))
    return figure, panels


def scaling(table, results):
    """Nanoseconds an element: flat where time grows with the elements."""
    figure, panels = _panels(table, "elements", results, "Time an element, forward + backward, mean, float32")
    for axes, curves in panels:
        for kind, points in curves.items():
            nanoseconds = [_value(figures, kind) / elements * 1e9 for elements, figures in points]
            width = 2.2 if kind == "ours" else 1.4
            axes.plot([e for e, _ in points], nanoseconds, "o-", ms=4, lw=width, color=COLOURS[kind], zorder=3)
        points = curves["ours"]
        floors = [figures["seconds"]["copy"] / elements * 1e9 for elements, figures in points]
        axes.plot([e for e, _ in points], floors, color="black", lw=1.2, ls="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("elements")
        axes.set_ylabel("ns an element")
        for name, size in results["caches"].items():
            at = size / (points[-1][1]["floor_bytes"] / points[-1][0])
            axes.axvline(at, color="#bbbbbb", lw=1.2, ls=":", zorder=1)
            axes.text(
                at * 0.88, 0.98, name, transform=axes.get_xaxis_transform(), ha="right", va="top", color="#777777"
            )
    floor = Line2D([], [], color="black", ls="--", label="copy of the floor's bytes")
    figure.legend(handles=[*_handles(["ours", "eager", "compile"]), floor], ncols=4, loc="lower left")
    _layout(
        figure,
        "On the left the cost of a call is shared by ever more elements, and from some ten thousand on the work by all "
        "threads. Dotted: what a call touches outgrows\nthese caches. Beyond the last of them every byte comes from "
        "memory, and a fresh result's first touch of each of its pages goes through the system.",
    )
    return figure


def threads(table, results):
    figure, panels = _panels(table, "threads", results, "Time against threads, 10 million elements, float32, mean")
    for axes, curves in panels:
        for kind, points in curves.items():
            milliseconds = [_value(figures, kind) * 1e3 for _, figures in points]
            counts = [count for count, _ in points]
            axes.plot(counts, milliseconds, "o-", ms=5, color=COLOURS[kind], zorder=3)
        axes.set_xscale("log", base=2)
        axes.set_ylim(0)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(plt.NullLocator())
        axes.set_xlabel("threads")
        axes.set_ylabel("ms")
    figure.legend(handles=_handles(["ours", "eager", "compile"]), ncols=3, loc="lower left")
    _layout(figure)
    return figure


def samples(table, results):
    """Peak memory and time per sample against k."""
    figure, (memory, times) = plt.subplots(1, 2, figsize=(10, 4.1))
    styles = {
        "ours: streamed": ("aevb_ext, streamed", {"color": COLOURS["ours"], "lw": 2.2}),
        "ours: all at once": ("aevb_ext, all at once", {"color": COLOURS["ours"], "ls": "--", "mfc": "white"}),
        "eager": (NAMES["eager"], {"color": COLOURS["eager"]}),
        "compile": (NAMES["compile"], {"color": COLOURS["compile"]}),
    }
    ks = [figures["k"] for figures in table]
    for name, (label, style) in styles.items():
        known = [f for f in table if name in f["seconds"]]
        of, style = [f["k"] for f in known], {"marker": "o", "ms": 4, **style}
        memory.plot(of, [f["peak_bytes"][name] / 1e6 for f in known], **style, label=label)
        times.plot(of, [f["seconds"][name] / f["k"] * 1e3 for f in known], **style)
    for axes in (memory, times):
        axes.set_xscale("log")
        axes.set_xticks(ks, [f"{k:,}" for k in ks])
        axes.xaxis.set_minor_locator(plt.NullLocator())
        axes.set_xlabel("k, samples a data point (logarithmic)")
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
    memory.set_yscale("log")
    memory.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    memory.set_ylabel("MB (logarithmic)")
    memory.set_title("Held at once, beyond inputs and parameters")
    times.set_ylim(0)
    times.set_ylabel("ms for each of the k")
    times.set_title("Time, divided by k")
    figure.legend(*memory.get_legend_handles_labels(), ncols=4, loc="lower left")
    _title(figure, "The importance-weighted bound of k samples, forward + backward", results)
    _layout(figure, "100 data points, a decoder 50-500-784, float32. CPU time. Streamed: 5000 rows at a time.")
    return figure


def training_step(table, results):
    """A step by part: a bar for each contender."""
    figure, grid = plt.subplots(1, len(table), figsize=(10, 3.9), squeeze=False)
    parts = [*PARTS, "rest"]
    for axes, figures in zip(grid.flat, table, strict=True):
        names = sorted(figures["parts"], key=lambda name: figures["seconds"][name])
        for y, name in enumerate(names):
            left = 0.0
            for part, colour in zip(parts, PART_COLOURS, strict=True):
                width = figures["parts"][name].get(part, 0.0) * 1e3
                axes.barh(y, width, left=left, color=colour, height=0.62)
                left += width
            total = figures["seconds"][name] * 1e3
            axes.text(left * 1.01, y, f" {total:.3g} ms", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), [NAMES[name.partition(":")[0]] for name in names])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.18)
        axes.set_title(figures["case"])
        axes.set_xlabel("ms a step")
    handles = [Patch(color=colour, label=part) for part, colour in zip(parts, PART_COLOURS, strict=True)]
    figure.legend(handles=handles, ncols=6, loc="lower left")
    _title(figure, "A training step by part (784-500-20-500-784, Adagrad)", results)
    caption = (
        "Of JAX only the matrix products can be timed alone. The kernels that torch.compile makes are in its rest."
    )
    _layout(figure, caption)
    return figure


def batches(table, results):
    """Data points a second, and memory, against the minibatch."""
    figure, (rates, peaks) = plt.subplots(1, 2, figsize=(10, 4.2))
    kinds = _kinds(table)
    for kind in kinds:
        points = [(figures["batch"], figures) for figures in table if _value(figures, kind)]
        width = 2.2 if kind == "ours" else 1.4
        style = {"marker": "o", "ms": 4, "lw": width, "color": COLOURS[kind], "zorder": 3}
        rates.plot([m for m, _ in points], [m / _value(figures, kind) for m, figures in points], **style)
        held = [(m, peak / 1e6) for m, figures in points if (peak := _value(figures, kind, "peak_bytes"))]
        peaks.plot([m for m, _ in held], [megabytes for _, megabytes in held], **style)
    for axes in (rates, peaks):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(plt.FixedLocator([figures["batch"] for figures in table]))
        axes.xaxis.set_minor_locator(plt.NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.tick_params(axis="x", labelrotation=30)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_locator(plt.NullLocator())
        axes.set_xlabel("data points in a minibatch")
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
    rates.set_title("data points a second")
    peaks.set_title("MB at once in a step, beyond parameters and data")
    figure.legend(handles=_handles(kinds), ncols=4, loc="lower left")
    _title(figure, "Training against the minibatch (784-500-20-500-784, Adagrad)", results)
    _layout(figure, "JAX does not tell what memory its steps take.")
    return figure


# The implementations of benchmarks/head.py.
HEAD_COLOURS = {
    "one operator": COLOURS["ours"],
    "two operators": "#56B4E9",
    "eager": COLOURS["eager"],
    "torch.compile": COLOURS["compile"],
}


def head(table: list[dict], results: dict, path: Path) -> None:
    """A decoder's last layer and likelihood against the batch: time a row, and memory."""
    with plt.rc_context(STYLE):
        figure, (times, peaks) = plt.subplots(1, 2, figsize=(10, 4.2))
        rows = [figures["rows"] for figures in table]
        for name, colour in HEAD_COLOURS.items():
            style = {"marker": "o", "ms": 4, "lw": 2.2 if name == "one operator" else 1.4, "color": colour, "zorder": 3}
            times.plot(rows, [f["seconds"][name] / f["rows"] * 1e6 for f in table], **style)
            peaks.plot(rows, [f["peak_bytes"][name] / 1e6 for f in table], label=name, **style)
        line = {"color": "black", "lw": 1.2, "ls": "--"}
        times.plot(
            rows, [f["seconds"]["products"] / f["rows"] * 1e6 for f in table], label="its products alone", **line
        )
        line["ls"] = ":"
        peaks.plot(rows, [f["gradient_bytes"] / 1e6 for f in table], label="the gradients alone", **line)
        for axes in (times, peaks):
            axes.set_xscale("log", base=2)
            axes.set_xticks(rows, [str(n) for n in rows])
            axes.xaxis.set_minor_locator(plt.NullLocator())
            axes.set_xlabel("rows")
            axes.grid(color="#e5e5e5")
            axes.set_axisbelow(True)
        times.set_ylim(0)
        times.set_title("us a row, forward + backward" + (", CPU time" if results["cpu_time"] else ""))
        peaks.set_yscale("log")
        peaks.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        peaks.set_title("MB at once beyond the inputs")
        handles = [handle for axes in (peaks, times) for handle in axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, ncols=6, loc="lower left")
        _title(figure, f"The last layer and its likelihood: {table[0]['head'].partition(' x ')[2]}", results["machine"])
        _layout(figure)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)
