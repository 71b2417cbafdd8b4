"""Whether data lies where the likelihood can be evaluated, looked at before training."""

import warnings
from functools import reduce

import torch
from torch import Tensor

from ..data import Data, prefetch, rows_of
from ..models import VAE
from ..nn import BernoulliDecoder, GaussianDecoder
from ..noise import keys_at
from .processes import Processes

__all__ = ["check_support", "warn_of_range"]

# What is looked at together: so many data points, or fewer large ones.
_POINTS, _BYTES = 4096, 1 << 24

# So many standard deviations from where a Gaussian likelihood begins, data is too far to be learnt at usual stepsizes.
_FAR = 30.0

# Data that was scaled twice, as bytes are, is below it.
_NOTHING = 1 / 100


Range = tuple[Tensor, Tensor]


def check_support(model: VAE, data: Data, processes: Processes) -> Range | None:
    """Check that the data, which may be larger than memory, lies in the support of the model's likelihood.

    Each process looks at its share, a part at a time.

    Returns:
        The least and the largest that each number of x is in this process's share of the training data, ``[*event]``;
        None of an empty share.

    Raises:
        ValueError: it does not; names the first part where it does not.
    """
    found = None
    for split in ("train", "test", "valid"):
        if getattr(data, split) is None:
            continue
        rows = rows_of(getattr(data, split))
        bytes_each = max(1, rows.event_shape.numel() * rows.dtype.itemsize)
        parts = torch.arange(len(rows)).split(max(1, min(_POINTS, _BYTES // bytes_each)))
        parts = parts[processes.rank :: processes.world_size]
        batches = ((index, keys_at(0, "evaluation binarize", index) if rows.draws else None) for index in parts)
        for index, x in zip(parts, prefetch(rows, batches), strict=True):
            part = "" if len(index) == len(rows) else f"[{index[0]}:{index[-1] + 1}]"
            model.decoder.check_support(x, model.x_scale, f"data.{split}{part}")
            if split == "train":
                found = _joined(found, (x.amin(0).cpu(), x.amax(0).cpu()))
    return found


def warn_of_range(model: VAE, found: Range | None, processes: Processes) -> None:
    """Warn of training data that can be trained on, but hardly as it was meant; all processes call it together.

    Args:
        model: whose likelihood it is.
        found: what :func:`check_support` gave in this process.
        processes: the first one warns.

    Warns:
        UserWarning: the data is next to nothing of the [0, 1] that it should fill; of a Gaussian likelihood, numbers of
            x are the same in all of it, and the variance can go to 0 there, so that the bound has no limit; or its
            scale is far from that at which a mean that is not squashed begins.
    """
    low, high = reduce(_joined, processes.gather(found))
    if processes.is_first:
        _warn_of_constants(model.decoder, low, high)
        _warn_of_scale(model, max(-low.min().item(), high.max().item()) * model.x_scale)


def _joined(a: Range | None, b: Range | None) -> Range | None:
    if a is None or b is None:
        return b if a is None else a
    return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])


def _warn_of_constants(decoder, low: Tensor, high: Tensor) -> None:
    # Where no number of x has a variance of its own, or none that may become as small as it likes, there is a limit.
    if not isinstance(decoder, GaussianDecoder):
        return
    if decoder.clamp is not None or (decoder.logvar is not None and decoder.logvar.numel() == 1):
        return
    if constant := int((low == high).sum()):
        warnings.warn(
            f"{constant} of the {low.numel()} numbers of a data point are the same in all of data.train: the "
            "Gaussian's variance goes to 0 there, and the bound grows for as long as it is trained. Leave them out, or "
            "bound the variance: GaussianDecoder(net, clamp=(-8, 8), soft=True)",
            stacklevel=4,
        )


def _warn_of_scale(model: VAE, largest: float) -> None:
    said = f"data.train * x_scale goes up to {largest:.3g} in size (x_scale is {model.x_scale:.6g})"
    # Factor analysis, a subclass, may begin where the data is.
    is_gaussian = type(model.decoder) is GaussianDecoder
    if is_gaussian and not model.decoder.sigmoid and not _NOTHING <= largest <= _FAR:
        warnings.warn(
            f"{said}, and the Gaussian's mean begins at about 0, its variance at about 1: it is learnt slowly, or not "
            "at all. Rescale the data to a spread near 1",
            stacklevel=4,
        )
    of_unit = isinstance(model.decoder, BernoulliDecoder) or (is_gaussian and model.decoder.sigmoid)
    if of_unit and largest < _NOTHING:
        warnings.warn(f"{said}, where data in [0, 1] is expected: is it scaled twice?", stacklevel=4)
