"""Whether data lies where the likelihood can be evaluated, looked at before training."""

import warnings
from functools import reduce

import torch
from torch import Tensor

from ..data import Data, prefetch, rows_of
from ..models import VAE
from ..nn import GaussianDecoder
from ..noise import keys_at
from .processes import Processes

__all__ = ["check_support"]

# What is looked at together: so many data points, or fewer large ones.
_POINTS, _BYTES = 4096, 1 << 24

# So many standard deviations from where a Gaussian likelihood begins, data is too far to be learnt at usual stepsizes.
_FAR = 30.0


def check_support(model: VAE, data: Data, processes: Processes) -> None:
    """Check that the data, which may be larger than memory, lies in the support of the model's likelihood.

    Each process looks at its share, a part at a time.

    Warns:
        UserWarning: of a Gaussian likelihood. Numbers of x are the same in all of the training data, and the variance
            can go to 0 there: the bound has no limit. Or data is far from where a mean that is not squashed begins.

    Raises:
        ValueError: it does not; names the first part where it does not.
    """
    for split in ("train", "test", "valid"):
        if getattr(data, split) is None:
            continue
        rows = rows_of(getattr(data, split))
        bytes_each = max(1, rows.event_shape.numel() * rows.dtype.itemsize)
        parts = torch.arange(len(rows)).split(max(1, min(_POINTS, _BYTES // bytes_each)))
        parts = parts[processes.rank :: processes.world_size]
        batches = ((index, keys_at(0, "evaluation binarize", index) if rows.draws else None) for index in parts)
        ranges = []
        for index, x in zip(parts, prefetch(rows, batches), strict=True):
            part = "" if len(index) == len(rows) else f"[{index[0]}:{index[-1] + 1}]"
            model.decoder.check_support(x, model.x_scale, f"data.{split}{part}")
            if split == "train" and isinstance(model.decoder, GaussianDecoder):
                ranges = [reduce(_joined, [*ranges, (x.amin(0).cpu(), x.amax(0).cpu())])]
        if split == "train" and isinstance(model.decoder, GaussianDecoder):
            low, high = reduce(_joined, [part for of_process in processes.gather(ranges) for part in of_process])
            if processes.is_first:
                _warn_of_constants(model.decoder, low, high)
                _warn_of_scale(model, low, high)


def _joined(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])


def _warn_of_constants(decoder: GaussianDecoder, low: Tensor, high: Tensor) -> None:
    # Where no number of x has a variance of its own, or none that may become as small as it likes, there is a limit.
    if decoder.clamp is not None or (decoder.logvar is not None and decoder.logvar.numel() == 1):
        return
    if constant := int((low == high).sum()):
        warnings.warn(
            f"{constant} of the {low.numel()} numbers of a data point are the same in all of data.train: the "
            "Gaussian's variance goes to 0 there, and the bound grows for as long as it is trained. Leave them out, or "
            "bound the variance: GaussianDecoder(net, clamp=(-8, 8), soft=True)",
            stacklevel=4,
        )


def _warn_of_scale(model: VAE, low: Tensor, high: Tensor) -> None:
    # Factor analysis, a subclass, may begin where the data is.
    if model.decoder.sigmoid or type(model.decoder) is not GaussianDecoder:
        return
    largest = max(-low.min().item(), high.max().item()) * model.x_scale
    if largest > _FAR:
        warnings.warn(
            f"data.train * x_scale goes up to {largest:.3g} in size (x_scale is {model.x_scale:.6g}), and the "
            "Gaussian's mean begins at about 0, its variance at about 1: it is learnt slowly, or not at all. Rescale "
            "the data to a spread near 1",
            stacklevel=4,
        )
