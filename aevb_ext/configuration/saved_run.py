"""Reading the folder of a run; the contents of its files are checked here, and nowhere else."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .._checks import is_count
from .choices import MODEL_CHOICES
from .settings import CHOICES, Settings

if TYPE_CHECKING:
    from .._types import StrPath

__all__ = [
    "BEST",
    "CONFIG",
    "SavedRun",
    "checkpoint_file",
    "checkpoints_of",
    "folder_of",
    "model_file",
    "open_run",
    "parse_toml",
    "read_run_config",
]


# The file of a run's resolved configuration.
CONFIG = "config.toml"
# That of its best model.
BEST = "best.safetensors"


@dataclass(frozen=True)
class SavedRun:
    """The files of a run.

    Attributes:
        folder: the run's folder.
        checkpoint: the file of its model: the best one if there is one, else the latest; None if there is none yet.
        config: its resolved configuration.
        environment: versions, device, machine.
        logs, evaluations, resumptions: the lines of metrics.jsonl of each kind, in order.
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
        """The name of the run in tables and pages."""
        # A folder name may have bytes that are not text, which could not be written to a page.
        return os.fsencode(self.folder.resolve().name).decode(errors="replace")


def open_run(path: StrPath) -> SavedRun:
    """Read the folder of a run.

    Args:
        path: the folder; or one of its checkpoints, which is then used as its model.

    Raises:
        FileNotFoundError: the path does not exist, or does not belong to a run.
        ValueError: a file in it is damaged; the message names the file, and the line or the key.
    """
    path = Path(path)
    config, folder = read_run_config(path), folder_of(path)
    environment = folder / "environment.json"
    lines = _lines(folder / "metrics.jsonl")
    return SavedRun(
        folder,
        model_file(folder) if path.is_dir() else path,
        config,
        _table(environment, "", _parsed(environment, json.loads)) if environment.is_file() else {},
        *([line for line in lines if line.get("event") == kind] for kind in _EVENTS),
    )


def read_run_config(path: StrPath) -> dict:
    """The resolved configuration of a run alone; argument and errors are those of :func:`open_run`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no run {path}")
    folder = folder_of(path)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{path} is not of a run: {folder} has no {CONFIG}")
    return _config(folder / CONFIG)


def folder_of(path: Path) -> Path:
    """The folder of a run, given itself or one of its checkpoints."""
    if path.is_dir():
        return path
    parent = path.absolute().parent
    return parent.parent if parent.name == "checkpoints" else parent


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, newest last."""
    found = [path for path in folder.glob("checkpoints/*.safetensors") if re.fullmatch(r"\d+", path.stem)]
    return sorted(found, key=lambda path: int(path.stem))


def model_file(folder: Path) -> Path | None:
    """The best checkpoint of a run if there is one, else the latest; None if there is neither."""
    best = folder / BEST
    return best if best.is_file() else next(reversed(checkpoints_of(folder)), None)


def checkpoint_file(path: StrPath) -> Path:
    """The file of a model: the checkpoint at the path, or that of the model of a run whose folder it is.

    Raises:
        FileNotFoundError: there is no such file, or no checkpoint in the folder.
    """
    path = Path(path)
    found = model_file(path) if path.is_dir() else path
    if found is None:
        raise FileNotFoundError(f"there is no checkpoint in {path}: neither {BEST} nor any of a step")
    if not found.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; ValueError if it is none."""
    # Python 3.10 has it from the extra "train", which the help of `aevb` must not need.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    found: dict[str, Any] = tomllib.loads(text)
    return found


# The kinds of lines in metrics.jsonl that are read.
_EVENTS = ("log", "evaluation", "resumed")


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _config(path: Path) -> dict:
    """The configuration of a run: a table of plain values, with the table of the model in it."""
    config = _parsed(path, parse_toml)
    model = _table(path, "model", config.pop("model", {}))
    _table(path, "", config)
    kinds = {field.name: get_args(field.type) or (field.type,) for field in fields(Settings)} | {"data": (str,)}
    for name, value in config.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{path} is damaged: {name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
        if name in kinds and not any(_is_of(kind, value) for kind in kinds[name]):
            expected = " or ".join(_KIND_NAMES[kind] for kind in kinds[name] if kind in _KIND_NAMES)
            raise ValueError(f"{path} is damaged: {name} must be {expected}, got {value!r}")
    for name, choices in MODEL_CHOICES.items():
        if name in model and model[name] not in choices:
            raise ValueError(f"{path} is damaged: {name} must be one of {', '.join(choices)}, got {model[name]!r}")
    return {**config, "model": model} if model else config


_KIND_NAMES = {int: "a whole number", float: "a number", str: "text"}


def _is_of(kind: type, value: object) -> bool:
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int) and _is_number(value)
    return isinstance(value, kind)


def _table(path: Path, name: str, value: object) -> dict:
    """The value, if it is a dict of plain values."""
    where = f"{path} is damaged: {name} is" if name else f"{path} is damaged: it is"
    if not isinstance(value, dict):
        raise ValueError(f"{where} no table, but {_short(value)}")
    for key, inner in value.items():
        if not _is_plain(inner):
            raise ValueError(f"{path} is damaged: {f'{name}.{key}' if name else key} cannot be {_short(inner)}")
    return value


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    # A killed run may leave an incomplete line after the last newline.
    texts = path.read_bytes().split(b"\n")[:-1]
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(_line(json.loads(text.decode())))
        except RecursionError:
            raise ValueError(f"{path} is damaged in line {number}: it is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"{path} is damaged in line {number}: {error}") from None
    return found


def _line(line: Any) -> dict:
    """A line of the metrics, after checking the keys that are read from it."""
    if not isinstance(line, dict):
        raise ValueError(f"expected an object, got {_short(line)}")
    event = line.get("event")
    if event not in _EVENTS:
        return line
    needed = {"log": (), "evaluation": ("train", "test"), "resumed": ("changed",)}[event]
    for name in ("samples_seen", "steps", "seconds", *needed):
        if name not in line:
            raise ValueError(f"the {event} has no {name}")
    for name, value in line.items():
        if name == "event":
            continue
        if name in ("samples_seen", "steps"):
            right, expected = is_count(value), "a whole number, at least 0"
        elif name == "changed":
            right = isinstance(value, dict) and all(map(_is_change, value.values()))
            expected = "an object of names and [old, new]"
        else:
            # A number that was not finite is null; the required keys are never null.
            right = _is_number(value) or (value is None and name not in ("seconds", *needed))
            expected = "a number"
        if not right:
            raise ValueError(f"{name} must be {expected}, got {_short(value)}")
    return line


def _is_change(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_plain, value))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float) or (isinstance(value, list) and _is_flat(value))


def _is_flat(values: list) -> bool:
    return all(isinstance(value, str | int | float) for value in values)


def _is_number(value: object) -> bool:
    # Larger numbers can be neither plotted nor formatted as a time.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


def _short(value: object) -> str:
    """A short form of any value, for messages."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
