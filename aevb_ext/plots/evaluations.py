"""Evaluations of a run as text, as a table and as curves."""

import math
from typing import Any

from .. import plots
from ..estimators.result import plus_minus
from . import charts
from .html import table

__all__ = ["REACHED", "SPLITS", "bound", "chart", "curve", "duration", "listed", "present", "reached"]

SPLITS = ("test", "valid", "train")
REACHED = ("samples seen", "steps", "time")


def bound(evaluation: dict[str, Any], split: str) -> str:
    """The bound of a split with its standard error, if it has one, and how many data points were skipped.

    "-" if the split was not evaluated.
    """
    value, error, skipped = (evaluation.get(f"{split}{part}") for part in ("", "_stderr", "_skipped"))
    if value is None:
        return "-"
    return plus_minus(value, error, sign="±") + (f" ({skipped} skipped)" if skipped else "")


def duration(seconds: float) -> str:
    """A duration in words."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.1f} s"


def present(evaluations: list[dict[str, Any]]) -> list[str]:
    """The splits that were evaluated."""
    return [split for split in SPLITS if any(line.get(split) is not None for line in evaluations)]


def chart(evaluations: list[dict[str, Any]], score: str = "bound") -> str:
    """The curves of the bounds (or of ``score``) with standard errors, as SVG."""
    values = {split: curve(evaluations, split) for split in present(evaluations)}
    errors = {split: [_error(line, split) for line in evaluations if line.get(split) is not None] for split in values}
    bottom = min(plots.bottom(seen, [bounds]) for seen, bounds in values.values())
    return charts.lines(score, values, "nats per data point", errors=errors, log_x=True, bottom=bottom)


def _error(line: dict[str, Any], split: str) -> float:
    """The standard error; 0 if there is none (NaN, or null in files, which is that of a single data point)."""
    error = line.get(f"{split}_stderr")
    return 0.0 if error is None or math.isnan(error) else error


def curve(lines: list[dict[str, Any]], key: str) -> tuple[list[Any], list[Any]]:
    """Samples seen and values of ``key``, from the lines that have it."""
    lines = [line for line in lines if line.get(key) is not None]
    return [line["samples_seen"] for line in lines], [line[key] for line in lines]


def listed(evaluations: list[dict[str, Any]]) -> str:
    """A table of all evaluations."""
    splits = present(evaluations)
    rows = [(*reached(line), *(bound(line, split) for split in splits)) for line in evaluations]
    return table((*REACHED, *splits), rows)


def reached(line: dict[str, Any]) -> tuple[str, ...]:
    """The progress of training at an evaluation: the columns that ``REACHED`` names."""
    return f"{line['samples_seen']:,}", f"{line['steps']:,}", duration(line["seconds"])
