"""Checks of the arguments of :func:`~aevb_ext.train.fit`, before anything is computed."""

import difflib
import os
import warnings
from collections.abc import Iterable
from dataclasses import fields
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from .._arguments import COUNTS, described
from .._checks import check_count, check_positive
from ..configuration.settings import Settings
from ..data import SPLITS, CsrRows, Data, Rows, SubsetRows, prefetch, rows_of
from ..data.prefetch import chunk_size
from ..models import VAE
from ..nn import BernoulliDecoder, GaussianDecoder, LaplaceDecoder, StudentTDecoder
from ..nn.decoders import LikelihoodDecoder
from ..nn.likelihoods import OutsideSupport
from ..noise import keys_at
from .callbacks import Callback
from .distributed import Processes

__all__ = [
    "check_arguments",
    "check_data",
    "check_model",
    "check_support",
    "checked_callbacks",
    "settings_of",
    "warn_of_range",
]

# Dtypes that data may have beside any float dtype.
_DTYPES = (torch.bool, torch.uint8)


def check_arguments(
    *,
    device: object,
    out: object,
    resume: object,
    override: object,
    keep: object,
    checkpoint_every: object,
    validate: object,
    progress: object,
    processes: object,
) -> None:
    """Check the arguments of :func:`~aevb_ext.train.fit` beside the model, the data and the settings.

    Raises:
        TypeError, ValueError: an argument has another type, or is out of range. The message names it.
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
        raise ValueError("resume needs out, the folder of the run to resume, got None")


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        TypeError: they are not a sequence, or one does not have the methods of a :class:`Callback`.
    """
    expected = "callbacks must be a list of instances of aevb_ext.train.Callback"
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"{expected}, got {callbacks!r}")
    methods, those = [name for name in vars(Callback) if name.startswith("on_")], list(callbacks)
    for callback in those:
        if isinstance(callback, type) or not all(hasattr(callback, method) for method in methods):
            raise TypeError(f"{expected}, got {callback!r} among them")
    return those


def check_model(model: Any) -> None:
    """Check that the model is a VAE with parameters to learn.

    Raises:
        TypeError: it is not a VAE.
        ValueError: none of its parameters requires a gradient.
    """
    # torch.compile(model) wraps the model.
    if not isinstance(getattr(model, "_orig_mod", model), VAE):
        raise TypeError(
            f"model must be a VAE (aevb_ext.models), got {type(model).__name__}: VAE(encoder, decoder) makes one of "
            "modules of your own, make_model(...) one by name"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model has nothing to learn: none of its parameters has requires_grad=True")


def check_data(data: object, model: VAE) -> None:
    """Check that the data can be trained on, and has the shape that the model expects.

    Raises:
        TypeError: it is not a :class:`~aevb_ext.data.Data`, a split is neither a tensor nor Rows, or its dtype is not
            supported.
        ValueError: a split is missing or empty, x_scale is not a positive number, or shapes do not fit.
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
        wide = isinstance(model.decoder, LikelihoodDecoder) and split.dtype in COUNTS
        if not (split.dtype.is_floating_point or split.dtype in _DTYPES or wide):
            counts = ": counts have likelihoods of their own, as negative_binomial" if split.dtype in COUNTS else ""
            raise TypeError(f"data.{name} is of {split.dtype}, expected bool, uint8 or a float dtype{counts}")
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


def settings_of(settings: Settings | None, options: dict[str, Any]) -> Settings:
    """The settings, given as a Settings or one by one.

    Raises:
        TypeError: settings has another type, an option is not a setting, or both were given.
        ValueError: as in :class:`Settings`.
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


# Data that is this many standard deviations away from a Gaussian likelihood's initial mean is not learnt at the usual
# learning rates.
_FAR = 30.0

# If data should fill [0, 1] and is all below this, it was probably scaled twice.
_NOTHING = 1 / 100


Range = tuple[Tensor, Tensor]


def check_support(model: VAE, data: Data, processes: Processes) -> Range | None:
    """Check that the data, which may be larger than memory, lies in the support of the model's likelihood.

    Each process checks its share, in chunks.

    Returns:
        The smallest and the largest value of each element of x in this process's share of the training data,
        ``[*event]``; None for an empty share.

    Raises:
        ValueError: it does not. The message names the first chunk outside the support, or the first number.
    """
    found = None
    for split in ("train", "test", "valid"):
        if getattr(data, split) is None:
            continue
        rows = rows_of(getattr(data, split))
        parts = torch.arange(len(rows)).split(chunk_size(rows))
        parts = parts[processes.rank :: processes.world_size]
        batches = ((index, keys_at(0, "evaluation binarize", index) if rows.draws else None) for index in parts)
        for index, x in zip(parts, prefetch(rows, batches), strict=True):
            part = "" if len(index) == len(rows) else f"[{index[0]}:{index[-1] + 1}]"
            try:
                model.decoder.check_support(x, model.x_scale, f"data.{split}{part}")
            except OutsideSupport as error:
                raise _placed(error, data.name, split, rows, int(index[0])) from None
            if split == "train":
                found = _joined(found, (x.amin(0).cpu(), x.amax(0).cpu()))
    return found


def _placed(error: OutsideSupport, name: str, split: str, rows: Rows, first: int) -> ValueError:
    """The error with the place of the number in its file, or in the split if the file's rows are not known."""
    row, *element = error.place
    row += first
    is_part = isinstance(rows, SubsetRows)
    while isinstance(rows, SubsetRows):
        row, rows = int(rows.index[row]), rows.rows
    column = ", ".join(map(str, element))
    if is_part or isinstance(rows, CsrRows):
        return ValueError(f"{name}: row {row}, column {column} {error.said}")
    return ValueError(f"{name}: data.{split}[{row}, {column}] {error.said}")


def warn_of_range(model: VAE, found: Range | None, processes: Processes) -> None:
    """Warn of training data whose range is probably a mistake; all processes call it together.

    Args:
        model: the VAE with the likelihood.
        found: the result of :func:`check_support` in this process.
        processes: the first one warns.

    Warns:
        UserWarning: the data covers only a tiny part of the [0, 1] that it should fill; or, with a Gaussian likelihood,
            some elements of x are constant, so that their variance can go to 0 and the bound has no limit; or its scale
            is far from the initial mean of a Gaussian without sigmoid.
    """
    joined = reduce(_joined, processes.gather(found))
    if processes.is_first and joined is not None:
        low, high = joined
        _warn_of_constants(model.decoder, low, high)
        _warn_of_scale(model, max(-low.min().item(), high.max().item()) * model.x_scale)


def _joined(a: Range | None, b: Range | None) -> Range | None:
    if a is None or b is None:
        return b if a is None else a
    return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])


def _warn_of_constants(decoder: object, low: Tensor, high: Tensor) -> None:
    # The bound has a limit if no element of x has its own variance, or the variance is bounded below.
    if isinstance(decoder, GaussianDecoder):
        spread, is_bounded = decoder.logvar, decoder.clamp is not None
        what, cure = "Gaussian's variance", "bound the variance: GaussianDecoder(net, clamp=(-8, 8), soft=True)"
    elif isinstance(decoder, LaplaceDecoder | StudentTDecoder):
        spread, is_bounded = decoder.log_scale, False
        what, cure = "scale", f"learn one for all: {type(decoder).__name__}(net, log_scale=0.0)"
    else:
        return
    if is_bounded or (spread is not None and spread.numel() == 1):
        return
    if constant := int((low == high).sum()):
        warnings.warn(
            f"{constant} of the {low.numel()} elements of a data point are constant in all of data.train: the "
            f"{what} goes to 0 there, and the bound grows without limit. Leave them out, or {cure}",
            stacklevel=4,
        )


def _warn_of_scale(model: VAE, largest: float) -> None:
    said = f"data.train * x_scale goes up to {largest:.3g} in size (x_scale is {model.x_scale:.6g})"
    # A subclass may start at the data's mean and variance (factor analysis does).
    is_gaussian = type(model.decoder) is GaussianDecoder
    if is_gaussian and not model.decoder.sigmoid and not _NOTHING <= largest <= _FAR:
        warnings.warn(
            f"{said}, and the Gaussian's mean starts at about 0, its variance at about 1: it is learnt slowly, or not "
            "at all. Rescale the data to a standard deviation near 1",
            stacklevel=4,
        )
    of_unit = isinstance(model.decoder, BernoulliDecoder) or (is_gaussian and model.decoder.sigmoid)
    if of_unit and largest < _NOTHING:
        warnings.warn(f"{said}, where data in [0, 1] is expected: is it scaled twice?", stacklevel=4)
