"""Rows: data points by index, stored as bytes or bits, or drawn."""

import numpy as np
import pytest
import torch

from aevb_ext.data import BinarizedRows, BitRows, Rows, TensorRows, rows_of
from aevb_ext.noise import keys_at
from benchmarks.memory import peak_bytes


def _binary(*shape, dtype=torch.uint8):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).to(dtype)


def _grey(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


INDEX = torch.tensor([5, 0, 5, 19, 7])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("event", [(784,), (28, 28), (3,), (5, 7), (), (1,)], ids=str)
def test_bits_give_back_what_was_packed(event, dtype, device):
    data = _binary(20, *event, dtype=dtype).to(device)
    rows = BitRows.of(data)
    assert isinstance(rows, Rows) and rows.resident and rows.device == data.device
    assert len(rows) == 20 and rows.event_shape == event and rows.dtype == torch.uint8
    assert torch.equal(rows.gather(INDEX.to(device)), data[INDEX.to(device)].to(torch.uint8))
    assert np.array_equal(rows.packed.cpu().numpy(), np.packbits(data.cpu().reshape(20, -1).numpy() != 0, axis=1))
    assert rows.gather(INDEX[:0].to(device)).shape == (0, *event)


def test_more_rows_than_are_packed_at_a_time():
    data = _binary(10_001, 9)
    assert torch.equal(BitRows.of(data).gather(torch.arange(10_001)), data)


def test_memory_of_bits():
    """An eighth of the bytes, and a gather holds no more than the minibatch: in bits, and in bytes."""
    data = _binary(2000, 784)
    rows, index = BitRows.of(data), torch.arange(500)
    assert rows.packed.nbytes == data.nbytes // 8
    kept = []
    assert peak_bytes(lambda: kept.append(rows.gather(index)), torch.device("cpu")) <= 500 * (784 + 98) + 4096


def test_drawn_rows(device):
    """Each by its key: whatever is gathered with it; another key, another draw."""
    rows = BinarizedRows(_grey(20, 28, 28).to(device), 1 / 255)
    assert isinstance(rows, Rows) and rows.resident
    assert len(rows) == 20 and rows.event_shape == (28, 28) and rows.dtype == torch.uint8
    index = INDEX.to(device)
    epochs = [keys_at(0, "binarize", e * 20 + index) for e in (0, 1)]
    first, second = (rows.gather(index, keys) for keys in epochs)
    assert torch.equal(first[0], first[2]) and not torch.equal(first, second)
    parts = [rows.gather(i, k) for i, k in zip(index.split(2), epochs[0].split(2), strict=True)]
    assert torch.equal(torch.cat(parts), first)


def test_drawn_rows_have_the_pixels_for_their_means():
    """Over 4096 draws, within 5.5 standard deviations (4e-8 for each of 100 pixels)."""
    grey = _grey(1, 100)
    index = torch.zeros(4096, dtype=torch.int64)
    draws = BinarizedRows(grey, 1 / 255).gather(index, keys_at(0, "binarize", torch.arange(4096)))
    p = grey[0].double() / 255
    assert ((draws.double().mean(0) - p).abs() <= 5.5 * (p * (1 - p) / 4096).sqrt()).all()


def test_one_draw_in_bits():
    """A data set binarised once and for all."""
    rows, index = BinarizedRows(_grey(20, 28, 28), 1 / 255), torch.arange(20)
    keys = keys_at(3, "binarize", index)
    fixed = BitRows.of(rows, keys)
    assert torch.equal(fixed.gather(index), rows.gather(index, keys))


class _OnDisk:
    """Rows that do not lie on the device."""

    resident, draws, dtype, device = False, False, torch.uint8, torch.device("cpu")

    def __init__(self, array):
        self.array, self.event_shape = array, torch.Size(array.shape[1:])

    def __len__(self):
        return len(self.array)

    def gather(self, index, keys=None):
        return torch.from_numpy(self.array[index.numpy()])

    def to(self, device):
        return self


def test_drawn_from_rows_that_are_not_resident():
    grey = _grey(20, 28, 28)
    rows, keys = BinarizedRows(_OnDisk(grey.numpy()), 1 / 255), keys_at(0, "binarize", INDEX)
    assert not rows.resident and not rows.to("meta").resident and rows.to("meta").device.type == "cpu"
    assert torch.equal(rows.gather(INDEX, keys), BinarizedRows(grey, 1 / 255).gather(INDEX, keys))


def test_to():
    grey = _grey(20, 9)
    for rows in (TensorRows(grey), BitRows.of(grey > 99), BinarizedRows(grey)):
        there = rows.to("meta")
        assert type(there) is type(rows) and there.device.type == "meta" and rows.device.type == "cpu"
        assert there.gather(INDEX.to("meta"), torch.empty(5, 2, dtype=torch.int64, device="meta")).shape == (5, 9)


def test_a_gather_compiles():
    """Without a break, and to the bits of eager mode."""
    grey = _grey(20, 28, 28)
    for rows in (BitRows.of(grey > 99), BinarizedRows(grey, 1 / 255)):
        keys = keys_at(0, "binarize", INDEX)
        compiled = torch.compile(rows.gather, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(INDEX, keys), rows.gather(INDEX, keys))


BAD = [
    (lambda: BitRows.of(_grey(5, 9)), ValueError, "must consist of 0 and 1"),
    (lambda: BitRows.of(torch.full((2, 3), float("nan"))), ValueError, "must consist of 0 and 1"),
    (lambda: BitRows(_grey(5, 9), (28, 28)), ValueError, r"packed has shape \[5, 9\], expected \[N, 98\]"),
    (lambda: BitRows(_grey(98), (28, 28)), ValueError, r"packed has shape \[98\], expected \[N, 98\]"),
    (lambda: BitRows(torch.zeros(5, 98), (28, 28)), TypeError, "packed must be uint8, got float32"),
    (lambda: BinarizedRows(_grey(20, 9)).gather(INDEX), ValueError, r"need keys \[5, 2\].*got none"),
    (
        lambda: BinarizedRows(_grey(20, 9)).gather(INDEX, keys_at(0, "binarize", INDEX[:1])),
        ValueError,
        r"need keys \[5, 2\].*got keys of shape \[1, 2\]",
    ),
    (lambda: rows_of([1, 2]), TypeError, "must be a tensor .* got list"),
]


@pytest.mark.parametrize(("call", "exception", "message"), BAD)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
