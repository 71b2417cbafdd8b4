"""The folder of a run, as it is read."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from .train.checkpoint import model_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CONFIG", "SavedRun", "folder_of", "open_run"]

# What a run writes its resolved configuration to.
CONFIG = "config.toml"


@dataclass(frozen=True)
class SavedRun:
    """What a run has written.

    Attributes:
        folder: where.
        checkpoint: the file that its model is read from: the best one where there is one, else the latest; None where
            the run has not come to a checkpoint.
        config: its resolved configuration.
        environment: versions, device, machine.
        logs, evaluations, resumptions: the lines of metrics.jsonl, of each kind, in their order.
    """

    folder: Path
    checkpoint: Path | None
    config: dict
    environment: dict
    logs: list[dict]
    evaluations: list[dict]
    resumptions: list[dict]

    @property
    def name(self) -> str:
        """What tables and pages call it."""
        return self.folder.resolve().name


def open_run(path) -> SavedRun:
    """Read the folder of a run.

    Args:
        path: the folder; or one of its checkpoints, which is then the one that counts.

    Raises:
        FileNotFoundError: there is no such thing, or it is not of a run.
        ValueError: a file in it is damaged; the message names it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no run {path}")
    folder = folder_of(path)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{path} is not of a run: {folder} has no {CONFIG}")
    lines = _lines(folder / "metrics.jsonl")
    return SavedRun(
        folder,
        model_file(folder) if path.is_dir() else path,
        _parsed(folder / CONFIG, tomllib.loads),
        _parsed(folder / "environment.json", json.loads) if (folder / "environment.json").is_file() else {},
        *([line for line in lines if line.get("event") == kind] for kind in ("log", "evaluation", "resumed")),
    )


def folder_of(path: Path) -> Path:
    """The folder of a run: itself, or where a checkpoint of it is."""
    if path.is_dir():
        return path
    parent = path.absolute().parent
    return parent.parent if parent.name == "checkpoints" else parent


def _parsed(path: Path, parse) -> dict:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8").split("\n")
    # What follows the last newline was being written when the run was killed.
    found = []
    for number, text in enumerate(texts[:-1], 1):
        try:
            found.append(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{path} is damaged in line {number}: {error}") from None
    return found
