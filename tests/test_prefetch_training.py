"""Training with prefetched rows: the same run, the errors of the rows, and no thread left."""

import contextlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_step import LATENT, SCALE, Recorded, learner, on_cuda
from torch.utils.data import Dataset

from aevb_ext.data import Data, from_dataset, load
from aevb_ext.models import mlp_vae
from aevb_ext.train import Callback, Processes, Step, fit, make_step
from aevb_ext.train.arguments import check_support
from aevb_ext.train.step import GraphedStep, MinibatchSampler

Image = pytest.importorskip("PIL.Image")

N, DIM, M = 90, 12, 16
QUICK = {"samples_seen": 20 * M, "batch_size": M, "optimizer": "adam", "log_every": 1, "progress": False}


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("aevb-prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch):
    monkeypatch.setattr("aevb_ext.train.callbacks.plots.save_all", lambda *_: None)
    assert threads() == []
    yield
    assert threads() == []


def grey(dtype=np.uint8):
    x = np.random.RandomState(0).randint(256, size=(N, 3, 4))
    return x.astype(dtype) if dtype == np.uint8 else (x / 255).astype(dtype)


class Watched(Dataset):
    """A Dataset that knows what it was asked for, and in which thread."""

    def __init__(self, bad=None):
        self.x, self.asked, self.bad = torch.from_numpy(grey()), [], bad

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.asked.append((i, threading.current_thread().name))
        if i == self.bad:
            raise OSError(f"/data/{i}.png cannot be read")
        return self.x[i]


def model(x_scale=1.0):
    return mlp_vae(DIM, latent=LATENT, hidden=7, x_scale=x_scale, generator=torch.Generator().manual_seed(0))


class Looks(Callback):
    """Counts them, and does something at one."""

    def __init__(self, at=None, do=None):
        self.at, self.do, self.steps, self.threads = at, do, 0, 0

    def on_log(self, run, log):
        # Who keeps the run does not keep its thread.
        self.run, self.steps, self.threads = run, run.steps, max(self.threads, len(threads()))
        if run.steps == self.at:
            self.do(run)


def trained(data, out=None, look=None, **options):
    """The parameters after training, the bounds, and what the callback saw."""
    vae, look = model(data.x_scale), look or Looks()
    result = fit(vae, data, out=out, callbacks=[look], **QUICK | options)
    return [p.detach().clone() for p in vae.parameters()], (result.train, result.test), look


def same(a, b):
    return a[1] == b[1] and all(torch.equal(p, q) for p, q in zip(a[0], b[0], strict=True))


@pytest.mark.parametrize("binarize", [None, "dynamic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_mapped_file_trains_as_the_same_data_in_memory(tmp_path, dtype, binarize):
    np.save(tmp_path / "x.npy", grey(dtype))
    mapped, resident = (load(tmp_path / "x.npy", binarize=binarize, resident_bytes=n) for n in (0, 1 << 30))
    assert not mapped.train.resident
    expected, found = trained(resident), trained(mapped)
    assert same(found, expected)
    # One thread gathers, and only where there is something to gather from files.
    assert found[2].threads == 1 and expected[2].threads == 0


def test_it_goes_on_where_it_was_stopped(tmp_path):
    np.save(tmp_path / "x.npy", grey())
    data = load(tmp_path / "x.npy", binarize="dynamic", resident_bytes=0)
    expected = trained(data)
    trained(data, tmp_path / "run", Looks(7, lambda run: run.stop("enough")))
    assert same(trained(data, tmp_path / "run", resume=True), expected)


def test_data_points_are_asked_for_in_order_and_ahead():
    watched = Watched()
    ours = learner()
    ours.batch_size = M
    data = from_dataset(watched, Watched())
    step, order = Step(ours, data.train), MinibatchSampler(N, M, seed=0)
    watched.asked.clear()
    for steps in range(1, 14):
        step()
        assert ours.steps == steps
    # What the learner took before it is its own affair: the step goes where the count of steps says.
    ours.steps = 3
    step()
    step.close()
    asked = [i for i, _ in watched.asked]
    wanted = torch.cat([order.visits(t) % N for t in range(20)]).tolist()
    # 13 steps, and at most two more are under way; then the fourth, and again at most two.
    assert asked[: 13 * M] == wanted[: 13 * M]
    rest = asked[13 * M :]
    fourth = next(i for i in range(2 * M + 1) if rest[i : i + M] == wanted[3 * M : 4 * M])
    assert rest[:fourth] == wanted[13 * M :][:fourth]
    after = rest[fourth + M :]
    assert len(after) <= 2 * M and after == wanted[4 * M :][: len(after)]
    assert {name for _, name in watched.asked} == {"aevb-prefetch_0"}


def test_an_error_comes_at_the_step_that_it_belongs_to():
    order = MinibatchSampler(N, M, seed=0)
    bad = int(order.visits(4)[3])
    data = from_dataset(Watched(bad), Watched())
    look = Looks()
    with pytest.raises(OSError, match=f"/data/{bad}.png cannot be read"):
        trained(data, look=look, validate=False)
    assert look.steps == 4
    # Before training, where all of it is looked at.
    with pytest.raises(OSError, match=f"/data/{bad}.png cannot be read"):
        trained(data, look=look)


def test_a_picture_that_is_damaged_while_training_is_named(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for i, picture in enumerate(grey()):
            Image.fromarray(picture).save(tmp_path / split / f"{i:03d}.png")
    data = load(tmp_path, resident_bytes=0)
    last = data.train.paths[int(MinibatchSampler(N, M, seed=0).visits(4)[-1])]
    look = Looks(1, lambda run: last.write_bytes(last.read_bytes()[:40]))
    with pytest.raises(ValueError, match=f"{last} is truncated, damaged or not an image"):
        trained(data, look=look)
    assert look.steps == 4


class Gone(Exception):
    pass


def gone(_):
    raise Gone


@pytest.mark.parametrize("do", [gone, lambda run: run.stop("enough")], ids=["error", "stop"])
def test_no_thread_is_left_whatever_ends_a_run(do):
    look = Looks(5, do)
    with contextlib.suppress(Gone):
        trained(from_dataset(Watched(), Watched()), look=look)
    assert look.steps == 5 and look.threads == 1 and threads() == []


def test_no_thread_is_left_by_a_step_that_nobody_closes():
    ours = learner()
    step = make_step(ours, from_dataset(Watched(), Watched()).train)
    step()
    assert len(threads()) == 1
    del step


def test_a_graph_finds_each_minibatch_in_its_place(monkeypatch):
    Recorded(monkeypatch)
    watched, ours = Watched(), learner()
    step = GraphedStep(ours, from_dataset(watched, Watched()).train)
    order, places = MinibatchSampler(N, ours.batch_size, seed=0), set()
    for t in range(8):
        step()
        assert torch.equal(step._x, watched.x[order.visits(t) % N].flatten(1))
        places.add(step._x.data_ptr())
    assert len(places) == 1
    step.close()


@on_cuda
@pytest.mark.parametrize("binarize", [None, "dynamic"])
def test_steps_on_cuda_are_those_of_the_data_on_the_device(tmp_path, binarize):
    np.save(tmp_path / "x.npy", grey())
    mapped, resident = (load(tmp_path / "x.npy", binarize=binarize, resident_bytes=n) for n in (0, 1 << 30))
    steps = [make_step(learner("cuda"), data.to("cuda").train) for data in (mapped, resident)]
    bounds = [torch.stack([step() for _ in range(120)]) for step in steps]
    assert torch.equal(*bounds) and steps[0]._graph is not None
    steps[0].close()


# Looking at the support of all data before training.


class Counted(Watched):
    """Whose largest request is known."""

    most = 0

    def __getitems__(self, numbers):
        self.most = max(self.most, len(numbers))
        return [self.x[i % N] for i in numbers]

    def __len__(self):
        return 10_000


def test_the_support_is_looked_at_in_parts():
    counted = Counted()
    data = from_dataset(counted, Watched())
    low, high = check_support(model(SCALE), data, Processes())
    assert low.shape == high.shape == data.train.event_shape and (low <= high).all()
    assert 0 < counted.most <= 4096


@pytest.mark.parametrize("split", ["train", "test", "valid"])
def test_the_part_that_is_outside_is_named(split):
    x = torch.rand(10_000, DIM)
    bad = x.clone()
    bad[5000, 3] = 1.5
    data = Data("x", **{"train": x, "test": x, "valid": x} | {split: bad})
    message = rf"data\.{split}\[4096:8192\] \* x_scale lies in \[.*, 1\.5\], outside the support"
    with pytest.raises(ValueError, match=message):
        check_support(model(), data, Processes())
    # Of two processes each looks at every other part.
    check_support(model(), data, SimpleNamespace(rank=0, world_size=2))
    with pytest.raises(ValueError, match=message):
        check_support(model(), data, SimpleNamespace(rank=1, world_size=2))


LARGE = """
import resource, sys
import torch
import torch._dynamo  # as optimisers do at their first step
from aevb_ext.data import load
from aevb_ext.models import make_model
from aevb_ext.train import fit

torch.set_num_threads(1)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData:"))
# Memory that programs ask for; a file that is mapped to be read is none.
limit = (used << 10) + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    load(sys.argv[1], resident_bytes=1 << 60)
except MemoryError:
    print("no room")
data = load(sys.argv[1], resident_bytes=1 << 20, test_fraction=0.01)
model = make_model("mlp", x_dim=data.dim, latent=2, hidden=8, x_scale=data.x_scale)
print(len(data.train), fit(model, data, samples_seen=2_000, evaluate_every=2_000, progress=False).test)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is about mapped files elsewhere too")
def test_a_file_larger_than_memory_is_trained_on(tmp_path):
    # Nearly all of it is a hole, which takes no room on the disk.
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (500_000, 28, 28))
    file[:10] = 255
    file.flush()
    room = file.nbytes // 2
    del file
    command = [sys.executable, "-c", LARGE, str(tmp_path / "x.npy"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "no room" and second.startswith("495000 ")
