"""What is wrong with the arguments of a verb, as far as it can be said without PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..configuration.choices import LEARNER_TRAITS
from ..configuration.datasets import check_there
from ..configuration.saved_run import CONFIG, checkpoint_file, folder_of, read_run_config
from ..configuration.settings import Settings
from .config import DATA, known_settings, of_kind

__all__ = [
    "check_encoder",
    "check_keys",
    "check_model",
    "check_model_and_data",
    "learner_without_encoder",
    "setting",
    "with_data_keys",
]

T = TypeVar("T")


def check_keys(keys: dict[str, Any]) -> None:
    """Raise what is wrong with the keys of a run: its data is not there, or a setting is out of range."""
    check_there(keys["data"], keys.get("data_dir"))
    known_settings(keys)


def check_model(a: argparse.Namespace) -> None:
    """Raise FileNotFoundError unless RUN is a file, or the folder of a run with a checkpoint."""
    checkpoint_file(a.checkpoint)


def check_model_and_data(a: argparse.Namespace) -> None:
    """The same as :func:`check_model`, and raise what is wrong with where the data is that it was trained on."""
    check_model(a)
    config = _config(a.checkpoint)
    # Of a checkpoint that was moved out of its run's folder, only its own content tells the data.
    if config is not None or a.data is not None:
        with_data_keys(a, config or {}, lambda keys: check_there(keys["data"], keys.get("data_dir")))


def check_encoder(a: argparse.Namespace) -> None:
    """The same as :func:`check_model_and_data`, of a run whose encoder was trained.

    Raises:
        ValueError: the learner of the run trains no encoder.
    """
    if learner := learner_without_encoder(a.checkpoint):
        raise ValueError(f"{a.checkpoint} was trained by {learner}, which trains no encoder: this command needs one")
    check_model_and_data(a)


def learner_without_encoder(run: str) -> str | None:
    """The learner of a run if it trains no encoder, else None; None too for a checkpoint outside its run's folder."""
    learner = setting(run, "learner")
    return learner if learner in LEARNER_TRAITS and not LEARNER_TRAITS[learner].encodes else None


def setting(run: str, name: str) -> Any:
    """A setting of a run; for a checkpoint outside its run's folder, the default."""
    return (_config(run) or {}).get(name, getattr(Settings, name))


def with_data_keys(a: argparse.Namespace, config: dict[str, Any], use: Callable[[dict[str, Any]], T]) -> T:
    """``use(keys)``, with the keys that say where the data of a run is: the flags', else those of its configuration.

    Raises:
        ValueError: what ``use`` raises; if it is about a key of the configuration, the message names its file.
    """
    where = folder_of(Path(a.checkpoint)) / CONFIG
    keys = {key: of_kind(where, key, config[key]) for key in DATA if key in config}
    keys |= {key: given for key in ("data", "data_dir") if (given := getattr(a, key)) is not None}
    try:
        return use(keys)
    except ValueError as error:
        name = str(error).partition(" ")[0]
        if name in config and getattr(a, name, None) is None:
            raise ValueError(f"{where}: {error}") from None
        raise


def _config(run: str) -> dict[str, Any] | None:
    """The configuration of a run; None for a checkpoint outside its run's folder, and if there is no run."""
    try:
        return read_run_config(run)
    except FileNotFoundError:
        return None
