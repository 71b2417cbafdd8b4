"""Memory of large results on the CPU: blocks of earlier results are reused."""

import copy
import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest
import torch

import aevb_ext

pytestmark = pytest.mark.cpu_kernels("of memory on the CPU, with results that take minutes to emulate")

MIB = 1 << 20
PAGE = 4096
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere results lie where PyTorch puts them")


def _result(mib=4, number=None):
    """A result of so many MiB, all of whose elements are `number`."""
    zero = torch.zeros(()).expand(mib * MIB // 4)
    result = aevb_ext.gaussian_kl(zero, zero, reduction="none")
    return result if number is None else result.fill_(number)


def _holds(tensor, number):
    return bool((tensor == number).all())


def test_live_tensors_are_apart():
    """Through many rounds of taking and giving back, in sizes that share blocks."""
    order = torch.Generator().manual_seed(0)
    live = {}
    for number in range(300):
        if len(live) > 20:
            for key in torch.tensor(list(live))[torch.randperm(len(live), generator=order)[:15]].tolist():
                assert _holds(live.pop(key), key)
        live[number] = _result(4 + int(torch.randint(7, (), generator=order)), number)
    assert all(_holds(t, number) for number, t in live.items())
    places = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in live.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))


@linux
@pytest.mark.parametrize("mib", [4, 5, 33])
def test_a_block_is_lent_again(mib):
    first = _result(mib, 7.0)
    page = first.data_ptr() // PAGE
    del first
    second = _result(mib)
    assert second.data_ptr() // PAGE == page
    assert _holds(second, 0.0)


def test_a_view_keeps_its_block():
    view = _result(8, 1.0)[100:200]
    others = [_result(8, 2.0) for _ in range(3)]
    assert _holds(view, 1.0) and all(_holds(t, 2.0) for t in others)


@linux
def test_blocks_begin_on_huge_pages():
    assert {_result(mib).data_ptr() // PAGE % (2 * MIB // PAGE) for mib in (4, 5, 9)} == {0}


@linux
def test_gradients_of_one_call_begin_at_different_places_of_a_page():
    mu, logvar = (torch.zeros(1024, 1024, requires_grad=True) for _ in range(2))
    for _ in range(20):
        grads = torch.autograd.grad(aevb_ext.gaussian_kl(mu, logvar, reduction="sum"), (mu, logvar))
        first, second = (grad.data_ptr() % PAGE for grad in grads)
        assert first % 64 == second % 64 == 0
        assert 256 <= abs(first - second) <= PAGE - 256


def test_gradients_come_from_there_and_accumulate():
    mu, logvar = torch.zeros(2, 1024, 1024 + 512).requires_grad_().unbind()
    mu, logvar = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
    for _ in range(5):
        aevb_ext.gaussian_kl(mu + 1, logvar).sum().backward()
    assert _holds(mu.grad, 5.0) and _holds(logvar.grad, 0.0)


@pytest.mark.parametrize("taken", [4, 6])
def test_profiler_sees_it_come_and_go(taken):
    """The size that was asked for, whatever the block that it came in."""
    larger = _result(7)
    del larger
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = _result(taken)
        del result
    moved = sorted(e.self_cpu_memory_usage for e in profile.events() if abs(e.self_cpu_memory_usage) >= MIB)
    assert len(moved) == 2 and moved[0] == -moved[1]
    assert 0 <= moved[1] - taken * MIB <= 4096


def _through_pickle(t):
    return pickle.loads(pickle.dumps(t))


def _through_a_file(t):
    file = io.BytesIO()
    torch.save(t, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize(
    "copied",
    [_through_pickle, _through_a_file, copy.deepcopy, torch.clone],
    ids=["pickle", "save", "deepcopy", "clone"],
)
def test_copies(copied):
    result = _result(4, 3.0)
    twin = copied(result)
    result.fill_(4.0)
    assert _holds(twin, 3.0) and twin.data_ptr() != result.data_ptr()
    del result
    assert _holds(_result(4, 5.0), 5.0) and _holds(twin, 3.0)


def test_shared_memory():
    result = _result(4, 3.0).share_memory_()
    assert result.is_shared() and _holds(result, 3.0)
    assert _holds(_result(4, 5.0), 5.0) and _holds(result, 3.0)


@pytest.mark.parametrize("elements", [0, 1, MIB // 2, 3 * MIB, 16 * MIB])
def test_resized(elements):
    result = _result(4, 3.0)
    kept = min(elements, result.numel())
    result.resize_(elements)
    assert result.numel() == elements and _holds(result[:kept], 3.0)
    result[kept:] = 4.0
    assert _holds(result[:kept], 3.0) and _holds(result[kept:], 4.0)


def test_storage_emptied_and_filled_again():
    """As those do who shard parameters."""
    result = _result(4, 3.0)
    storage = result.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    others = [_result(4, 5.0) for _ in range(2)]
    storage.resize_(size)
    result.fill_(6.0)
    assert _holds(result, 6.0) and all(_holds(t, 5.0) for t in others)


def test_numpy_keeps_it():
    array = _result(4, 3.0).numpy()
    assert _holds(_result(4, 5.0), 5.0) and (array == 3.0).all()


class _Results(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return _result(4, float(index))


def _send(queue, number):
    torch.set_num_threads(1)  # as DataLoader's workers: OpenMP's threads do not survive a fork
    queue.put(_result(4, number))
    queue.close()
    queue.join_thread()
    _wait.wait(60)


_wait = torch.multiprocessing.get_context("fork").Event() if sys.platform == "linux" else None


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestFork:
    def test_loader_workers(self):
        kept = _result(4, 9.0)
        loader = torch.utils.data.DataLoader(_Results(), batch_size=2, num_workers=2, multiprocessing_context="fork")
        for i, batch in enumerate(loader):
            assert _holds(batch[0], 2.0 * i) and _holds(batch[1], 2.0 * i + 1)
        assert _holds(kept, 9.0)

    def test_queue(self):
        context = torch.multiprocessing.get_context("fork")
        queue = context.Queue()
        _wait.clear()
        child = context.Process(target=_send, args=(queue, 3.0))
        child.start()
        received = queue.get(timeout=60)
        _wait.set()
        child.join(60)
        assert child.exitcode == 0 and _holds(received, 3.0)

    def test_child_and_parent_go_on_alone(self):
        """Forked while other threads take and give back; an alarm ends a child that hangs."""
        stop = threading.Event()
        wrong = []

        def churn(number):
            while not stop.is_set():
                if not _holds(_result(4, number), number):
                    wrong.append(number)

        threads = [threading.Thread(target=churn, args=(float(i),)) for i in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                mine = _result(4, 50.0)
                child = os.fork()
                if child == 0:
                    signal.alarm(60)
                    torch.set_num_threads(1)
                    live = [_result(4, 60.0 + i) for i in range(3)]
                    good = _holds(mine, 50.0) and all(_holds(t, 60.0 + i) for i, t in enumerate(live))
                    del live
                    os._exit(0 if good and _holds(_result(4, 70.0), 70.0) else 1)
                mine.fill_(51.0)
                assert os.waitpid(child, 0)[1] == 0
                assert _holds(mine, 51.0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong


def test_threads():
    """Taking in one thread what another has left, and giving back what another took."""
    wrong, passed = [], []
    together = threading.Barrier(4)

    def work(i):
        together.wait()
        for step in range(60):
            number = float(100 * i + step)
            mine = [_result(4 + step % 3, number + j / 4) for j in range(3)]
            if not all(_holds(t, number + j / 4) for j, t in enumerate(mine)):
                wrong.append(number)
            passed.append((number, mine[0]))
            if len(passed) > 6:
                expected, other = passed.pop(0)
                if not _holds(other, expected):
                    wrong.append(expected)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and all(_holds(t, number) for number, t in passed)


def _in_a_fresh_process(code):
    prelude = """if True:
        import resource
        import numpy, torch, aevb_ext
        MIB = 1 << 20

        def result(mib, number):
            zero = torch.zeros(()).expand(mib * MIB // 4)
            return aevb_ext.gaussian_kl(zero, zero, reduction="none").fill_(number)

        def mapped():  # bytes of address space
            with open("/proc/self/statm") as sizes:
                return int(sizes.read().split()[0]) * resource.getpagesize()
    """
    ran = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.mark.slow
@linux
def test_idle_memory_is_bounded():
    """Beyond 256 MiB it goes back, addresses and all. The rest is room for what else may grow."""
    printed = _in_a_fresh_process("""
        result(mib=4, number=1)
        before = mapped()
        for blocks, mib in (12, 32), (1, 400), (90, 4):
            live = [result(mib, i) for i in range(blocks)]
            during = mapped()
            del live
            print(blocks * mib, during - before, mapped() - before)
    """)
    for asked, during, after in zip(*(map(int, printed[i::3]) for i in range(3)), strict=True):
        assert during > 0.95 * asked * MIB
        assert after <= (256 + 32) * MIB


@pytest.mark.slow
@linux
def test_idle_memory_is_not_kept_from_others():
    """Where a process may map so much and no more, what lies idle is for its next result, and most of it for all."""
    assert _in_a_fresh_process("""
        result(4, 1)
        resource.setrlimit(resource.RLIMIT_AS, (mapped() + 700 * MIB,) * 2)

        def leave_much_behind():
            live = [result(100, i) for i in range(6)]

        leave_much_behind()
        print(float(torch.full((430 * MIB // 4,), 1.0).max()))
        leave_much_behind()
        print(float(numpy.full(430 * MIB // 4, 2.0, numpy.float32).max()))
        leave_much_behind()
        print(float(result(600, 3.0).max()))
    """) == ["1.0", "2.0", "3.0"]
