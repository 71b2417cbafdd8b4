"""Whether what :func:`aevb_ext.train.fit` is given is what it takes, looked at before training."""

import difflib
import os
from collections.abc import Iterable
from dataclasses import fields
from math import prod

import torch
from torch import Tensor

from .._arguments import described
from ..data import SPLITS, Data, Rows, rows_of
from ..models import VAE
from ..models.checks import check_count, check_positive
from .callbacks import Callback
from .processes import Processes
from .settings import Settings

__all__ = ["check_arguments", "check_data", "check_model", "checked_callbacks", "settings_of"]

# What data may be of, beside any float dtype.
_DTYPES = (torch.bool, torch.uint8)


def check_arguments(*, device, out, resume, override, keep, checkpoint_every, validate, progress, processes) -> None:
    """Check the types of what :func:`~aevb_ext.train.fit` takes beside the model, the data and the settings.

    Raises:
        TypeError, ValueError: one is of another type, or out of range; names it.
    """
    for name, value, kinds, expected in (
        ("device", device, (str, int, torch.device), "a device's name or a torch.device"),
        ("out", out, (str, os.PathLike, type(None)), "a path or None"),
        ("resume", resume, bool, "True or False"),
        ("override", override, Iterable, "names of settings"),
        ("validate", validate, bool, "True or False"),
        ("progress", progress, bool, "True or False"),
        ("processes", processes, (Processes, type(None)), "a Processes (aevb_ext.train) or None"),
    ):
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be {expected}, got {described(value)}")
    check_count("keep", keep)
    if checkpoint_every is not None:
        check_count("checkpoint_every", checkpoint_every)
    if resume and out is None:
        raise ValueError("resume needs out, the folder of the run to go on with, got None")


def checked_callbacks(callbacks) -> list[Callback]:
    """The callbacks.

    Raises:
        TypeError: they are no sequence, or one has not the methods of a :class:`Callback`.
    """
    expected = "callbacks must be a list of instances of aevb_ext.train.Callback"
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"{expected}, got {callbacks!r}")
    methods, callbacks = [name for name in vars(Callback) if name.startswith("on_")], list(callbacks)
    for callback in callbacks:
        if isinstance(callback, type) or not all(hasattr(callback, method) for method in methods):
            raise TypeError(f"{expected}, got {callback!r} among them")
    return callbacks


def check_model(model) -> None:
    """Check that there is a model with something to learn.

    Raises:
        TypeError: it is no VAE.
        ValueError: none of its parameters requires a gradient.
    """
    # torch.compile(model) has the model inside.
    if not isinstance(getattr(model, "_orig_mod", model), VAE):
        raise TypeError(
            f"model must be a VAE (aevb_ext.models), got {type(model).__name__}: VAE(encoder, decoder) makes one of "
            "modules of your own, make_model(...) one by name"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model has nothing to learn: none of its parameters has requires_grad=True")


def check_data(data, model: VAE) -> None:
    """Check that there is data, in a form that can be trained on, and of the shape that the model says it takes.

    Raises:
        TypeError: it is no :class:`~aevb_ext.data.Data`, or a split is neither a tensor nor Rows, or of a dtype that
            data cannot have.
        ValueError: a split is missing or empty, x_scale is no positive number, or shapes do not fit.
    """
    if not isinstance(data, Data):
        raise TypeError(
            f"data must be a Data (aevb_ext.data), got {type(data).__name__}: load(path) and from_dataset(...) give "
            "one, Data(name, train, test) makes one of tensors"
        )
    check_positive("data.x_scale", data.x_scale)
    splits = {name: getattr(data, name) for name in SPLITS}
    for name, split in splits.items():
        if split is None and name != "valid":
            raise ValueError(f"data must have train and test points, got None for data.{name}")
        if not isinstance(split, Tensor | Rows | None):
            raise TypeError(
                f"data.{name} must be a tensor [N, *event] or Rows (aevb_ext.data), got {type(split).__name__}"
            )
    rows = {name: rows_of(split) for name, split in splits.items() if split is not None}
    if len(rows["train"]) == 0 or len(rows["test"]) == 0:
        raise ValueError(f"data must have train and test points, got {len(rows['train'])} and {len(rows['test'])}")
    if "valid" in rows and len(rows["valid"]) == 0:
        raise ValueError("data.valid has no data points: leave it None")
    for name, split in rows.items():
        if not (split.dtype.is_floating_point or split.dtype in _DTYPES):
            raise TypeError(f"data.{name} is of {split.dtype}, expected bool, uint8 or a float dtype")
        _check_shape(name, list(split.event_shape), list(rows["train"].event_shape), model)


def _check_shape(name: str, shape: list[int], of_train: list[int], model: VAE) -> None:
    if shape != of_train:
        raise ValueError(f"data.{name} has data points of shape {shape}, those of data.train are of {of_train}")
    config = model.config or {}
    size = config.get("x_dim") or prod(config.get("image_shape", [0]))
    if size and shape != [size]:
        raise ValueError(
            f"data.{name} has data points of shape {shape}, and the model takes rows of {size} numbers: make it for "
            f"{prod(shape)}, or flatten(1) the data, whichever is wrong"
        )


def settings_of(settings: Settings | None, options: dict) -> Settings:
    """The settings, given as one or one by one.

    Raises:
        TypeError: settings is something else, there is an option that no setting is, or both were given.
        ValueError: as :class:`Settings` raises it.
    """
    if not isinstance(settings, Settings | None):
        raise TypeError(
            f"settings must be a Settings (aevb_ext.train), got {type(settings).__name__}: give them one by one, as "
            "samples_seen=..., where they are none"
        )
    if settings is not None and options:
        raise TypeError(f"settings were given, and {', '.join(options)} beside them: give one or the other")
    known = [field.name for field in fields(Settings)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"there is no argument and no setting {name!r}" + (f": {near[0]}?" if near else ""))
    return settings or Settings(**options)
