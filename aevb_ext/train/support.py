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


def check_support(model: VAE, data: Data, processes: Processes) -> None:
    """Check that the data, which may be larger than memory, lies in the support of the model's likelihood.

    Each process looks at its share, a part at a time.

    Warns:
        UserWarning: numbers of x are the same in all of the training data, and the likelihood is a Gaussian's whose
            variance can go to 0 there: the bound has no limit.

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
            if split == "train" and _has_free_variances(model.decoder):
                ranges = [reduce(_joined, [*ranges, (x.amin(0).cpu(), x.amax(0).cpu())])]
        if split == "train" and _has_free_variances(model.decoder):
            whole = reduce(_joined, [of_part for of_process in processes.gather(ranges) for of_part in of_process])
            if processes.is_first:
                _warn_of_constants(*whole)


def _has_free_variances(decoder) -> bool:
    """Whether each number of x has a variance that may become as small as it likes."""
    if not isinstance(decoder, GaussianDecoder) or decoder.clamp is not None:
        return False
    return decoder.logvar is None or decoder.logvar.numel() > 1


def _joined(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])


def _warn_of_constants(low: Tensor, high: Tensor) -> None:
    if constant := int((low == high).sum()):
        warnings.warn(
            f"{constant} of the {low.numel()} numbers of a data point are the same in all of data.train: the "
            "Gaussian's variance goes to 0 there, and the bound grows for as long as it is trained. Leave them out, or "
            "bound the variance: GaussianDecoder(net, clamp=(-8, 8), soft=True)",
            stacklevel=4,
        )
