"""Prefetched minibatches: in order, with the errors of the rows, and no thread that outlives them."""

import threading
import time
import traceback

import pytest
import torch

from aevb_ext import data
from aevb_ext.noise import keys_at

X = torch.arange(200.0).reshape(50, 4)


class Slow:
    """Rows that are not resident, and say what was asked of them."""

    resident, draws, device = False, False, torch.device("cpu")
    dtype, event_shape = torch.float32, torch.Size([4])

    def __init__(self, seconds=0.0):
        self.seconds, self.asked = seconds, []

    def __len__(self):
        return len(X)

    def gather(self, index, keys=None):
        if -1 in index:
            raise ValueError("there is no data point -1")
        # Later batches are quicker than earlier ones.
        time.sleep(self.seconds / (1 + len(self.asked)))
        self.asked.append((index.tolist(), threading.current_thread().name))
        return X[index] if keys is None else X[index] + keys[:, 1:]

    def to(self, device):
        return self


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("aevb-prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert threads() == []
    yield
    assert threads() == []


@pytest.mark.parametrize("rows", [X, data.TensorRows(X), Slow(0.02)], ids=["tensor", "resident", "not resident"])
@pytest.mark.parametrize("depth, workers", [(1, 1), (2, 1), (3, 3), (9, 2)])
def test_batches_come_in_their_order(rows, depth, workers, device):
    batches = list(torch.randperm(50, generator=torch.Generator().manual_seed(0)).split(9))
    found = list(data.prefetch(rows, batches, device, depth=depth, workers=workers))
    assert len(found) == 6 and all(x.device.type == device.type for x in found)
    for x, index in zip(found, batches, strict=True):
        assert torch.equal(x.cpu(), X[index])


def test_batches_are_gathered_ahead_and_no_further():
    rows = Slow()
    batches = data.prefetch(rows, torch.arange(50).split(5), depth=2)
    # Nothing happens before the first is asked for.
    assert rows.asked == []
    for given, x in enumerate(batches, 1):
        assert torch.equal(x, X[5 * given - 5 : 5 * given])
        expected = min(given + 2, 10)
        deadline = time.monotonic() + 10
        while len(rows.asked) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(rows.asked) == expected
    assert {name for _, name in rows.asked} == {"aevb-prefetch_0"}


def test_keys_reach_rows_that_draw():
    index = torch.tensor([4, 2])
    keys = keys_at(0, "binarize", index + 100)
    for rows in (Slow(), data.BinarizedRows(X / 200), data.BinarizedRows(Slow(), 1 / 200)):
        (x,) = data.prefetch(rows, [(index, keys)])
        assert torch.equal(x, rows.gather(index, keys))
    first, second = data.prefetch(Slow(), [(index, None), index])
    assert torch.equal(first, X[index]) and torch.equal(second, X[index])
    with pytest.raises(ValueError, match="rows that draw need keys"):
        list(data.prefetch(data.BinarizedRows(Slow(), 1 / 200), [index]))


def test_an_error_of_the_rows_is_raised_where_the_batch_is_due():
    batches = data.prefetch(Slow(), [torch.tensor([0]), torch.tensor([1]), torch.tensor([-1]), torch.tensor([2])])
    assert next(batches).sum() == X[0].sum() and next(batches).sum() == X[1].sum()
    with pytest.raises(ValueError, match="no data point -1") as error:
        next(batches)
    assert "in gather" in "".join(traceback.format_tb(error.value.__traceback__))
    assert list(batches) == []


def test_an_error_of_the_caller_ends_the_threads():
    def broken():
        yield torch.tensor([0])
        raise KeyError("which batch?")

    with pytest.raises(KeyError):
        list(data.prefetch(Slow(), broken()))
    with pytest.raises(ZeroDivisionError):
        for _ in data.prefetch(Slow(), torch.arange(50).split(5)):
            1 / 0  # noqa: B018


def test_leaving_early_ends_the_threads_and_what_is_waiting():
    rows = Slow(0.02)
    for _ in data.prefetch(rows, torch.arange(50).split(5), depth=9):
        break
    assert threads() == []
    assert len(rows.asked) < 10
    never_begun = data.prefetch(rows, torch.arange(50).split(5))
    del never_begun


def test_an_endless_sequence_of_batches():
    def forever():
        while True:
            yield torch.tensor([7, 7])

    batches = data.prefetch(Slow(), forever())
    assert all(torch.equal(next(batches), X[[7, 7]]) for _ in range(20))
    batches.close()


@pytest.mark.parametrize("size", [1, 7, 50, 60])
def test_chunks_are_all_data_points_in_order(size):
    for rows in (X, data.TensorRows(X), Slow()):
        found = list(data.chunks(rows, size))
        assert torch.equal(torch.cat(found), X) and {len(x) for x in found[:-1]} <= {size}
    assert list(data.chunks(X[:0], size)) == []


def test_chunks_of_rows_that_draw_do_not_depend_on_their_size():
    rows = data.BinarizedRows(X / 200)
    keys = lambda index: keys_at(3, "evaluation", index)  # noqa: E731
    whole = rows.gather(torch.arange(50), keys(torch.arange(50)))
    for size in (1, 7, 50):
        assert torch.equal(torch.cat(list(data.chunks(rows, size, keys=keys))), whole)
    assert torch.equal(data.first(rows, 20, keys=keys), whole[:20])
    assert torch.equal(data.first(rows, 70, keys=keys), whole)


def test_numbers_out_of_range():
    for name in ("depth", "workers"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            data.prefetch(X, [], **{name: 0})
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        data.chunks(X, 0)
    with pytest.raises(TypeError, match="data must be a tensor"):
        data.prefetch([1, 2], [])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_copy_is_whole_when_the_stream_reads_it():
    x = torch.randint(256, (1 << 14, 4096), dtype=torch.uint8)

    class Large(Slow):
        event_shape, dtype = x.shape[1:], x.dtype

        def gather(self, index, keys=None):
            return x[index]

    batches = torch.randint(len(x), (20, 8192), generator=torch.Generator().manual_seed(0))
    sums = [found.long().sum() for found in data.prefetch(Large(), batches, "cuda")]
    assert [s.item() for s in sums] == [x[index].long().sum().item() for index in batches]
