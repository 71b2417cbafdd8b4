"""The keys of a run: flags of ``aevb train``, and lines of its configuration file."""

from __future__ import annotations

import argparse
import difflib
import inspect
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..configuration.choices import (
    BINARIZE,
    COUNT_LIKELIHOODS,
    LIKELIHOOD_ALIASES,
    MODEL_CHOICES,
    likelihood_name,
)
from ..configuration.datasets import NAMES
from ..configuration.saved_run import parse_toml
from ..configuration.settings import CHOICES, Settings
from .values import count, shape, whole

if TYPE_CHECKING:
    from .._types import StrPath

__all__ = ["DATA", "KEYS", "MODEL", "SETTINGS", "add_flags", "known_settings", "of_kind", "read_config", "resolved"]


# The paper's models for MNIST and Frey Face (its Figure 2), and similar ones for the other datasets.
_MNIST = {"latent": 20, "hidden": 500, "likelihood": "bernoulli", "samples_seen": 10_000_000}
DEFAULTS = {
    "digits": {"latent": 5, "hidden": 200, "likelihood": "bernoulli", "samples_seen": 1_000_000},
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "binarized_mnist": _MNIST,
    "freyface": {"latent": 10, "hidden": 200, "likelihood": "gaussian", "samples_seen": 10_000_000},
}

_CHOICES = {**CHOICES, **MODEL_CHOICES, "binarize": BINARIZE}
_CHOICES["likelihood"] = (*MODEL_CHOICES["likelihood"], *LIKELIHOOD_ALIASES)
_METAVARS = {count: "N", whole: "N", float: "X", shape: "SHAPE"}
_ALIASES = {"n_samples": ["--samples"], "batch_size": ["-M"]}


# Each key with the type of its value, in the order in which help lists them.
DATA: dict[str, Any] = {
    "data": str,
    "data_dir": str,
    "binarize": str,
    "x_scale": float,
    "test_fraction": float,
    "train_count": count,
    "colour": bool,
    "image_shape": shape,
    "array": str,
}
MODEL: dict[str, Any] = {
    "architecture": str,
    "latent": count,
    "hidden": count,
    "depth": count,
    "activation": str,
    "channels": count,
    "likelihood": str,
    "mean_activation": str,
    "logvar_scale": float,
}
# What of a model follows from the data.
_OF_DATA = ("x_dim", "image_shape", "x_scale", "library_size", "classes")
_TYPES: dict[Any, Any] = {int: whole, float: float, str: str}
# "int", or "int | None".
SETTINGS = {field.name: _TYPES[(get_args(field.type) or [field.type])[0]] for field in fields(Settings)}
# epochs is no field of Settings: it becomes samples_seen once the data is known.
TRAINING = {**SETTINGS, "epochs": float}
KEYS = {**DATA, **MODEL, **TRAINING}
_BOTH_LENGTHS = "{} and {} were both given: each says how long to train, give only one"


def add_flags(parser: argparse.ArgumentParser, *, listed: bool = True) -> None:
    """Add a flag for each key, in groups, which help lists or not; a flag that is not given is None."""
    meanings = _meanings() if listed else dict.fromkeys(KEYS, argparse.SUPPRESS)
    for title, keys in (("data", DATA), ("model", MODEL), ("training", TRAINING)):
        group = parser.add_argument_group(title)
        for key, kind in keys.items():
            names = [f"--{key.replace('_', '-')}", *_ALIASES.get(key, [])]
            if kind is bool:
                group.add_argument(*names, action="store_true", default=None, dest=key, help=meanings.get(key))
                continue
            choices = _CHOICES.get(key)
            # Many names are listed in the help's text, where lines are broken.
            metavar = ("NAME" if key == "likelihood" else None) if choices else _METAVARS.get(kind)
            group.add_argument(*names, type=kind, choices=choices, metavar=metavar, dest=key, help=meanings.get(key))


def read_config(path: StrPath) -> dict:
    """The keys of a TOML file: data and settings at its top level, those of the model there or under ``[model]``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not TOML, has an unknown key (the message names the nearest one), or a value of the
            wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config: there is no file {path}")
    try:
        found = parse_toml(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"config: {path} is not a TOML file of a run: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"config: {path} is not a TOML file: {error}") from None
    model = found.pop("model", {})
    if not isinstance(model, dict):
        raise ValueError(f"config: {path}: model must be a table, [model], got {model!r}")
    # A run writes these into its file for readers; they follow from the data.
    model = {key: value for key, value in model.items() if key not in _OF_DATA}
    keys = {**found, **model}
    for key in keys:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise ValueError(f"config: {path} has the unknown key {key!r}" + (f": {near[0]}?" if near else ""))
    if "epochs" in keys and "samples_seen" in keys:
        raise ValueError(f"config: {path}: {_BOTH_LENGTHS.format('epochs', 'samples_seen')}")
    return {key: of_kind(path, key, value) for key, value in keys.items()}


def of_kind(path: Path, key: str, value: Any) -> Any:
    """The value of a key, if it is of the key's type; an integer is accepted for a float."""
    kind = KEYS[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        right, expected = isinstance(value, str), "text in quotes"
    elif kind is bool:
        right, expected = isinstance(value, bool), "true or false"
    elif kind is shape:
        right = isinstance(value, list) and all(type(size) is int for size in value)
        expected = "a list of whole numbers, [height, width] or the like"
    elif kind is float:
        right, expected = is_number, "a number"
    else:
        right, expected = is_number and math.isfinite(value) and value == int(value), "a whole number"
    if not right:
        raise ValueError(f"config: {path}: {key} must be {expected}, got {value!r}")
    return value if kind in (str, bool, float, shape) else int(value)


def resolved(arguments: argparse.Namespace) -> dict:
    """Every key that has a value: from its flag, else from the file of ``--config``, else the data's default."""
    given = {key: value for key in KEYS if (value := getattr(arguments, key)) is not None}
    keys = {} if arguments.config is None else read_config(arguments.config)
    for one, other in (("epochs", "samples_seen"), ("samples_seen", "epochs")):
        if one in given:
            keys.pop(other, None)
    if "epochs" in given and "samples_seen" in given:
        raise ValueError(_BOTH_LENGTHS.format("--epochs", "--samples-seen"))
    keys = {"data": "digits", **keys, **given}
    if "epochs" in keys and not 0 < keys["epochs"] < math.inf:
        raise ValueError(f"epochs must be a positive number of passes over the data, got {keys['epochs']}")
    defaults = DEFAULTS.get(keys["data"], DEFAULTS["digits"])
    if "epochs" in keys:
        defaults = {key: value for key, value in defaults.items() if key != "samples_seen"}
    if keys.get("architecture", "mlp") != "mlp":
        # The width of the paper's single layer is no default for other architectures.
        defaults = {key: value for key, value in defaults.items() if key != "hidden"}
    keys = {**defaults, **keys}
    keys["likelihood"] = likelihood_name(keys["likelihood"])
    if keys["likelihood"] in (*COUNT_LIKELIHOODS, "categorical") and "binarize" not in keys:
        # Counts and classes are whole numbers, also where they are bytes.
        keys.setdefault("x_scale", 1.0)
    return keys


def _meanings() -> dict[str, str]:
    """The help of each key; for a setting, taken from the docstring of Settings."""
    found = {
        "data": f"{', '.join(NAMES)}, or the path of a folder of images, a .npy, .npz or .h5ad file; default: digits",
        "data_dir": "where the files of named data are",
        "binarize": "draw binary pixels anew in each epoch (dynamic), or round them to 0 and 1 (threshold)",
        "x_scale": "what a value of the data is multiplied by; default: 1/255 for bytes that are no counts or classes",
        "test_fraction": "the fraction held out if the data has no test split; default: 0.1",
        "colour": "keep the images of a folder in colour (RGB); default: convert them to grey",
        "image_shape": "HEIGHTxWIDTH, or 3xHEIGHTxWIDTH: of the pictures that rows of a .npy or .npz file are",
        "array": "the name of the array of a .npz file that is the data; default: found by common names",
        "train_count": "train on the first N data points only; default: all",
        "architecture": "default: mlp, the paper's",
        "latent": f"latent dimensions; default: {_by_data('latent')}",
        "hidden": f"hidden units of a layer; default: {_by_data('hidden')}; with deep-mlp 500, with conv 256",
        "depth": "hidden layers of deep-mlp; default: 3",
        "activation": "silu or tanh, after the hidden layers of deep-mlp; default: silu",
        "channels": "channels of conv's first convolution; default: 32",
        "likelihood": f"{', '.join(_CHOICES['likelihood'])} (the last two are short names); default: "
        f"{_by_data('likelihood')}",
        "mean_activation": "of the mean of a gaussian, laplace, student_t or discretized_logistic: sigmoid, for data "
        "in [0, 1], or identity, for any; default: sigmoid",
        "logvar_scale": "of mlp: what the weights of each log-variance are multiplied by; default: 1",
        "epochs": "training length, in passes over the training data",
        "samples_seen": f"training length in data points; default: {_by_data('samples_seen')}",
    }
    # Python 3.13 and later take the indentation off docstrings, earlier ones do not.
    meant = inspect.cleandoc(Settings.__doc__ or "").partition("Attributes:")[2]
    for entry in re.split(r"\n {4}(?=\S)", meant):
        name, colon, text = " ".join(entry.split()).partition(": ")
        if colon and name in SETTINGS and name not in found:
            default = next(field.default for field in fields(Settings) if field.name == name)
            text = re.sub(r"``|(?<!\*)\*(?!\*)", "", text).replace("%", "%%")
            # A shell has no None: leaving the flag out means that.
            found[name] = text.replace("None: ", "Default: ") if default is None else f"{text} Default: {default}"
    return found


def _by_data(key: str) -> str:
    """The default of a key in words, with the datasets that have another one."""
    usual = DEFAULTS["digits"][key]
    others: dict[object, list[str]] = {}
    for name, defaults in DEFAULTS.items():
        if defaults[key] != usual:
            others.setdefault(defaults[key], []).append(name)
    return "; ".join([str(usual), *(f"of {', '.join(names)} {value}" for value, names in others.items())])


def known_settings(keys: dict) -> Settings:
    """The settings as far as the data need not be known: with ``epochs``, of the default length."""
    return Settings(**{key: keys[key] for key in SETTINGS if key in keys})
