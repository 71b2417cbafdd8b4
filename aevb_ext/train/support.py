"""Whether data lies where the likelihood can be evaluated, looked at before training."""

import torch

from ..data import Data, prefetch, rows_of
from ..models import VAE
from ..noise import keys_at
from .processes import Processes

__all__ = ["check_support"]

# What is looked at together: so many data points, or fewer large ones.
_POINTS, _BYTES = 4096, 1 << 24


def check_support(model: VAE, data: Data, processes: Processes) -> None:
    """Check that the data, which may be larger than memory, lies in the support of the model's likelihood.

    Each process looks at its share, a part at a time.

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
        for index, x in zip(parts, prefetch(rows, batches), strict=True):
            part = "" if len(index) == len(rows) else f"[{index[0]}:{index[-1] + 1}]"
            model.decoder.check_support(x, model.x_scale, f"data.{split}{part}")
