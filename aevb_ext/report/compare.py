"""Comparing runs: a table and a page."""

from .. import plots
from ..configuration.saved_run import SavedRun
from ..plots import charts, evaluations
from ..plots.html import figure, flattened, grid, page, paragraph, section, table
from .run import rate

__all__ = ["compare", "comparison"]


def comparison(runs: list[SavedRun]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table of runs: the progress of each, and every setting in which they differ."""
    last = [run.evaluations[-1] if run.evaluations else {} for run in runs]
    splits = evaluations.present(last)
    configs = [dict(flattened(run.config)) for run in runs]
    settings = differing(configs)
    header = ["run", *splits, "samples seen", "time", "samples/s", *settings]
    rows = [
        [
            name,
            *(evaluations.bound(line, split) for split in splits),
            f"{line['samples_seen']:,}" if line else "-",
            evaluations.duration(line["seconds"]) if line else "-",
            rate(run),
            *(str(config.get(key, "-")) for key in settings),
        ]
        for name, run, line, config in zip(_names(runs), runs, last, configs, strict=True)
    ]
    return header, rows


def differing(configs: list[dict]) -> list[str]:
    """The keys whose values differ between the configurations, in the order of their first occurrence."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]


def compare(runs: list[SavedRun]) -> str:
    """A page with the table of :func:`comparison` and the curves of the runs."""
    return page(
        "Runs compared",
        paragraph(
            "Bounds at the last evaluation, in nats per data point, ± the standard error over data points; and every "
            "setting in which the runs differ."
        ),
        table(*comparison(runs)),
        section("Curves", grid(*_curves(runs))),
    )


def _names(runs: list[SavedRun]) -> list[str]:
    """The names of the runs' folders, or their paths if two have the same name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _curves(runs: list[SavedRun]) -> list[str]:
    found = []
    for split in evaluations.present([line for run in runs for line in run.evaluations]):
        curves = {name: evaluations.curve(run.evaluations, split) for name, run in zip(_names(runs), runs, strict=True)}
        bottom = min(plots.bottom(seen, [values]) for seen, values in curves.values() if seen)
        chart = charts.lines(f"{split} bound", curves, "nats per data point", log_x=True, bottom=bottom)
        found.append(figure(chart, f"The bound of the {split} data."))
    return found
