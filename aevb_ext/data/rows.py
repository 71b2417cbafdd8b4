"""``Rows``: indexed access to data points wherever they are stored, and subsets of them."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .. import functional as F
from .._types import Device

__all__ = ["BinarizedRows", "BitRows", "Rows", "SubsetRows", "TensorRows", "hold_out", "rows_of", "shuffled", "subset"]

# Data points that are packed into bits at a time.
_CHUNK = 4096


@runtime_checkable
class Rows(Protocol):
    """Data points by index: the trainer draws minibatches from it.

    Attributes:
        event_shape: the shape of one data point.
        dtype: of the data points that :meth:`gather` returns: any float dtype, bool or uint8; for likelihoods of counts
            and classes int16, int32 or int64 too.
        device: the device of the indices that :meth:`gather` takes and of the data points that it returns.
        resident: whether gathering runs on the device alone, so that a CUDA graph may capture it.
        draws: whether gathering draws random values and needs noise keys (dynamic binarisation).
    """

    event_shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    resident: bool
    draws: bool

    def __len__(self) -> int:
        """How many data points there are."""

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The data points at these indices.

        Args:
            index: int64 ``[B]``, each in ``[0, len(self))``, on ``device``.
            keys: int64 ``[B, 2]``, a noise key for each data point; needed by rows that draw.

        Returns:
            ``[B, *event_shape]`` on ``device``.
        """

    def to(self, device: Device) -> "Rows":
        """The same data points, moved to ``device`` if they are resident."""


class TensorRows:
    """:class:`Rows` of a tensor ``[N, *event]``."""

    resident, draws = True, False

    def __init__(self, tensor: Tensor):
        if tensor.dim() < 1:
            raise ValueError(f"tensor must be [N, *event], got a scalar of {tensor.dtype}")
        self.tensor = tensor
        self.event_shape, self.dtype, self.device = tensor.shape[1:], tensor.dtype, tensor.device

    def __len__(self) -> int:
        return len(self.tensor)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """``tensor[index]``; ``keys`` is ignored."""
        return self.tensor.index_select(0, index)

    def to(self, device: Device) -> "TensorRows":
        """The same on ``device``."""
        return TensorRows(self.tensor.to(device))


class BitRows:
    """:class:`Rows` of binary data, eight values in a byte, in memory and on the device.

    Args:
        packed: uint8 ``[N, ceil(n / 8)]``, each row packed from ``n`` zeros and ones as by ``numpy.packbits``.
        event_shape: the shape of one data point, with ``n`` elements.

    Raises:
        TypeError: packed is not uint8.
        ValueError: packed has another shape.
    """

    resident, draws, dtype = True, False, torch.uint8

    def __init__(self, packed: Tensor, event_shape: tuple[int, ...]):
        self.packed, self.event_shape = packed, torch.Size(event_shape)
        self.device = packed.device
        width = (self.event_shape.numel() + 7) // 8
        if packed.dtype != torch.uint8:
            raise TypeError(f"packed must be uint8, got {str(packed.dtype).removeprefix('torch.')}")
        if packed.dim() != 2 or packed.shape[1] != width:
            raise ValueError(
                f"packed has shape {list(packed.shape)}, expected [N, {width}] for data points of shape "
                f"{list(self.event_shape)}"
            )

    @classmethod
    def of(cls, data: "Tensor | Rows", keys: Tensor | None = None) -> "BitRows":
        """Pack binary data into bits, on its device.

        Args:
            data: a tensor ``[N, *event]`` or Rows of zeros and ones, of any dtype.
            keys: int64 ``[N, 2]``, for Rows that draw: the result holds that one draw.

        Raises:
            ValueError: a value is neither 0 nor 1.
        """
        rows = rows_of(data)
        n = rows.event_shape.numel()
        index = torch.arange(len(rows), device=rows.device)
        packed = torch.empty(len(rows), (n + 7) // 8, dtype=torch.uint8)
        for i in range(0, len(rows), _CHUNK):
            points = rows.gather(index[i : i + _CHUNK], None if keys is None else keys[i : i + _CHUNK])
            bits = points != 0
            if not torch.equal(bits.to(points.dtype), points):
                raise ValueError("data must consist of 0 and 1 to be packed into bits; it has other values")
            packed[i : i + _CHUNK] = torch.from_numpy(np.packbits(bits.reshape(len(bits), n).cpu().numpy(), axis=1))
        return cls(packed.to(rows.device), rows.event_shape)

    def __len__(self) -> int:
        return len(self.packed)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """uint8 0 and 1; ``keys`` is ignored."""
        bits = F.unpack_bits(self.packed.index_select(0, index), self.event_shape.numel())
        return bits.reshape(len(index), *self.event_shape)

    def to(self, device: Device) -> "BitRows":
        """The same on ``device``."""
        return BitRows(self.packed.to(device), self.event_shape)


class BinarizedRows:
    """:class:`Rows` drawn from other rows: each value is 1 with probability ``x * x_scale``, else 0.

    Each gather draws by the keys that it is given (:func:`aevb_ext.binarize`). With new keys in each epoch this is the
    dynamic binarisation of Burda et al. 2016. A dataset of such rows has ``x_scale`` 1.

    Args:
        rows: a tensor ``[N, *event]`` or Rows of grey data.
        x_scale: what a value is multiplied by to give the probability (1/255 for grey bytes).
    """

    draws, dtype = True, torch.uint8

    def __init__(self, rows: "Tensor | Rows", x_scale: float = 1.0):
        self.rows, self.x_scale = rows_of(rows), x_scale
        self.event_shape, self.device, self.resident = self.rows.event_shape, self.rows.device, self.rows.resident

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """uint8 0 and 1, drawn by each data point's own key.

        Raises:
            ValueError: ``keys`` is missing, or does not have one key for each index.
        """
        if keys is None or keys.shape != (len(index), 2):
            given = "none" if keys is None else f"keys of shape {list(keys.shape)}"
            raise ValueError(f"rows that draw need keys [{len(index)}, 2], one for each index; got {given}")
        return F.binarize(self.rows.gather(index), keys, x_scale=self.x_scale)

    def to(self, device: Device) -> "BinarizedRows":
        """The same, with the rows moved to ``device`` if they are resident."""
        return BinarizedRows(self.rows.to(device), self.x_scale)


def rows_of(data: Tensor | Rows) -> Rows:
    """A tensor ``[N, *event]`` as :class:`Rows`; Rows are returned as they are.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(data, Tensor):
        return TensorRows(data)
    if isinstance(data, Rows):
        return data
    raise TypeError(f"data must be a tensor [N, *event] or Rows (aevb_ext.data), got {type(data).__name__}")


class SubsetRows:
    """:class:`~aevb_ext.data.Rows`: a subset of other rows.

    Args:
        rows: the other rows.
        index: int64 ``[N]``, the indices of the subset in ``rows``.
    """

    def __init__(self, rows: Rows, index: Tensor):
        self.rows, self.index = rows, index.to(rows.device)
        self.event_shape, self.dtype, self.device = rows.event_shape, rows.dtype, rows.device
        self.resident, self.draws = rows.resident, rows.draws

    def __len__(self) -> int:
        return len(self.index)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """Gather ``self.index[index]`` from the other rows."""
        return self.rows.gather(self.index.index_select(0, index), keys)

    def to(self, device: Device) -> "SubsetRows":
        """The same, with the other rows moved to ``device`` if they are resident."""
        return SubsetRows(self.rows.to(device), self.index)


def hold_out(data: Tensor | Rows, fraction: float) -> tuple[Tensor | Rows, Tensor | Rows]:
    """(train, test): split off a test split, always the same one.

    The test split has ``round(fraction * N)`` data points, at least one and at most ``N - 1``: the first of NumPy's
    ``RandomState(0).permutation(N)``, a stream that NumPy has frozen. Each split keeps the order of the data.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are fewer than two data points.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {fraction}")
    rows = rows_of(data)
    train, test = held_out_numbers(len(rows), fraction)
    return subset(data, train), subset(data, test)


def held_out_numbers(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """The indices of the data points that :func:`hold_out` keeps, and of those that it holds out, int64."""
    if count < 2:
        raise ValueError(f"data must have at least two data points to hold one out for the test, got {count}")
    permutation = _permutation(count)
    held = min(max(round(fraction * count), 1), count - 1)
    test, train = (torch.from_numpy(np.sort(part)) for part in (permutation[:held], permutation[held:]))
    return train, test


def subset(data: Tensor | Rows, index: Tensor) -> Tensor | Rows:
    """The data points at these indices, int64 ``[N]``: a tensor if ``data`` is one, else Rows."""
    rows = rows_of(data)
    if isinstance(rows, TensorRows):
        return rows.gather(index.to(rows.device))
    return SubsetRows(rows, index)


def shuffled(images: np.ndarray) -> np.ndarray:
    """The images in a random order, always the same one."""
    return np.take(images, _permutation(len(images)), 0)


def _permutation(count: int) -> np.ndarray:
    return np.random.RandomState(0).permutation(count)
