"""What a figure leaves behind: its picture, its values and one page that compares them with the paper's."""

import json

from ..runs import SavedRun

__all__ = ["EVALUATION", "environments", "evaluations", "markdown_table", "page", "power_of_ten"]

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
    """Of which versions, on which machine, with which seeds runs were trained: one sentence for each that differs."""
    found = {}
    for run in runs:
        keys = ("commit", "torch", "python", "machine", "device", "threads")
        about = json.dumps({key: run.environment.get(key) for key in keys})
        found.setdefault(about, set()).add(run.config.get("seed", 0))
    return "\n".join(
        "Trained by aevb_ext {commit}, torch {torch}, Python {python}, {machine}, {device}, {threads} thread(s) each; "
        "seeds {seeds}.".format(**json.loads(about), seeds=", ".join(map(str, sorted(seeds))))
        for about, seeds in found.items()
    )
