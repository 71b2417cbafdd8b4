"""Prefetching minibatches."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from .._types import Device
from .rows import Rows, rows_of

__all__ = ["chunk_size", "chunks", "first", "prefetch"]

# A chunk of data that is looked at once has this many data points, or fewer if they are large.
_POINTS, _BYTES = 4096, 1 << 24


# A function from the indices of data points to their noise keys.
Keys = Callable[[Tensor], Tensor]


def prefetch(
    data: Tensor | Rows,
    batches: Iterable[Tensor | tuple[Tensor, Tensor | None]],
    device: Device | None = None,
    *,
    depth: int = 2,
    workers: int = 1,
) -> Generator[Tensor, None, None]:
    """The data points of each batch of indices, in order, on ``device``.

    Rows that are not resident are gathered in threads while the caller computes. The copy to a CUDA device runs from
    pinned memory on a stream of its own. The caller's stream waits for the copy, the host does not. An exception of the
    rows is raised here, with its traceback. The threads end with the iteration, even if the caller stops early.

    Args:
        data: a tensor ``[N, *event]`` or Rows.
        batches: int64 ``[B]``, indices of data points; or pairs of these and noise keys, int64 ``[B, 2]`` or None.
            They are read in the caller's thread, ``depth`` batches ahead.
        device: where the data points are wanted. Default: the device of the rows.
        depth: how many batches are prefetched beside the one that the caller has.
        workers: threads that gather; more than one helps if a batch waits for files or decodes images.

    Yields:
        ``[B, *event]`` on ``device``.
    """
    rows = rows_of(data)
    device = rows.device if device is None else torch.device(device)
    for name, value in (("depth", depth), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    pairs = (batch if isinstance(batch, tuple) else (batch, None) for batch in batches)
    if rows.resident:
        return (_gather(rows, *batch).to(device) for batch in pairs)
    return _prefetch(_Fetch(rows, device), pairs, depth, workers)


def _prefetch(
    fetch: "_Fetch", batches: Iterator[tuple[Tensor, Tensor | None]], depth: int, workers: int
) -> Generator[Tensor, None, None]:
    pool = ThreadPoolExecutor(workers, "aevb-prefetch")
    try:
        ready = deque(pool.submit(fetch, *batch) for batch in islice(batches, depth))
        while ready:
            x = fetch.arrived(ready.popleft().result())
            ready.extend(pool.submit(fetch, *batch) for batch in islice(batches, 1))
            yield x
            # Else the previous batch would stay in memory while the next one arrives.
            del x
    finally:
        pool.shutdown(cancel_futures=True)


def _gather(rows: Rows, index: Tensor, keys: Tensor | None) -> Tensor:
    return rows.gather(index.to(rows.device), None if keys is None else keys.to(rows.device))


class _Fetch:
    """Gathers a batch and sends it to the device."""

    def __init__(self, rows: Rows, device: torch.device):
        self._rows, self._device = rows, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, index: Tensor, keys: Tensor | None) -> tuple[Tensor, torch.cuda.Event | None]:
        x = _gather(self._rows, index, keys)
        if self._stream is None:
            return x.to(self._device), None
        with torch.cuda.stream(self._stream):
            x = x.pin_memory().to(self._device, non_blocking=True)
            return x, self._stream.record_event()

    def arrived(self, sent: tuple[Tensor, torch.cuda.Event | None]) -> Tensor:
        """The batch, after making the caller's stream wait for its copy."""
        x, event = sent
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            x.record_stream(stream)
        return x


def chunks(data: Tensor | Rows, size: int, device: Device | None = None, keys: Keys | None = None) -> Iterator[Tensor]:
    """All data points in order, ``size`` at a time.

    Args:
        data: a tensor ``[N, *event]`` or Rows.
        size: data points in a chunk; the last chunk may be smaller.
        device: where they are wanted. Default: the device of the rows.
        keys: a function from the indices of data points, int64 ``[B]`` on the CPU, to their noise keys
            (``lambda index: keys_at(seed, "evaluation", index)``); needed by rows that draw.

    Yields:
        ``[B, *event]``.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    rows = rows_of(data)
    index = (torch.arange(i, min(i + size, len(rows))) for i in range(0, len(rows), size))
    return prefetch(rows, ((i, None if keys is None else keys(i)) for i in index), device)


def chunk_size(data: Tensor | Rows) -> int:
    """How many data points to look at at a time: few enough that a chunk takes little memory."""
    rows = rows_of(data)
    return max(1, min(_POINTS, _BYTES // max(1, rows.event_shape.numel() * rows.dtype.itemsize)))


def first(data: Tensor | Rows, n: int, device: Device | None = None, keys: Keys | None = None) -> Tensor:
    """The first ``n`` data points, or all if there are fewer; other arguments as in :func:`chunks`."""
    rows = rows_of(data)
    index = torch.arange(min(n, len(rows)))
    x = _gather(rows, index, None if keys is None else keys(index))
    return x if device is None else x.to(device)
