"""A run that is killed with SIGKILL anywhere and resumed ends with the same parameters, bit for bit."""

import os
import random
import signal
import sys
import time

import pytest
import torch
import torch._dynamo  # optimisers do so at their first step: here once, and not in each process that is forked
from test_resume import model, same, small_data, state, with_dropout

from aevb_ext.train import fit

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

OPTIONS = {"samples_seen": 600, "batch_size": 10, "evaluate_every": 200, "checkpoint_every": 70, "progress": False}

# Each with what it has to remember beside the parameters.
RUNS = [
    (model, {"optimizer": "adagrad"}),
    (model, {"optimizer": "adam", "ema": 0.99, "schedule": "cosine", "beta_warmup": 300}),
    (model, {"optimizer": "sgd", "precision": "fp16", "clip": 10.0}),
    (with_dropout, {"optimizer": "adam"}),
]

SECONDS = 60  # after which a process that hangs is ended
KILLS = 16


def child(out, make, options, before=lambda: None):
    """A process that begins the run, or goes on with it. It is forked: importing torch takes seconds."""
    process = os.fork()
    if process:
        return process
    try:
        signal.alarm(SECONDS)
        torch.set_num_threads(1)
        resume = any((out / "checkpoints").glob("*.safetensors"))
        vae = make(seed=int(resume))
        torch.manual_seed(int(resume))
        before()
        fit(vae, small_data(), out=out, resume=resume, **OPTIONS, **options)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def ended(process):
    """Whether it ended by itself; False: it was killed."""
    status = os.waitpid(process, 0)[1]
    assert status in (0, signal.SIGKILL), f"wait status {status}"
    return status == 0


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("aevb_ext.train.callbacks.plots.save_all", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Of each run the state at its end, and how long it took."""
    found = []
    for i, (make, options) in enumerate(RUNS):
        out, began = tmp_path_factory.mktemp(f"whole{i}"), time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aevb_ext.train.callbacks.plots.save_all", lambda *_: None)
            assert ended(child(out, make, options))
        found.append((state(out), time.monotonic() - began))
    return found


@pytest.mark.slow
def test_at_random_moments(tmp_path, whole):
    moments, kills, runs = random.Random(0), 0, 0
    while kills < KILLS or runs < len(RUNS):
        (make, options), (expected, seconds) = RUNS[runs % len(RUNS)], whole[runs % len(RUNS)]
        out, over = tmp_path / str(runs), False
        while not over:
            process = child(out, make, options)
            # Of the whole run's time, of which much passes before a first checkpoint: with less hardly one would end.
            time.sleep(moments.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            over = ended(process)
            kills += not over
        assert same(state(out), expected), f"run {runs}, after {kills} kills"
        assert [path.name for path in out.rglob(".*")] == []
        runs += 1


@pytest.mark.slow
def test_at_every_step_of_writing_a_checkpoint(tmp_path, whole, monkeypatch):
    """Killed before the n-th call to the file system that changes something, for each n that two checkpoints take."""
    make, options = RUNS[1]
    calls = ("fsync", "chmod", "replace", "unlink", "close")

    def die_at(n):
        left = [n]

        def counted(call):
            def counts(*args, **kwargs):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counts

        for name in calls:
            setattr(os, name, counted(getattr(os, name)))

    deaths = 0
    for n in range(1, 26):
        out = tmp_path / str(n)
        deaths += not ended(child(out, make, options, lambda n=n: die_at(n)))
        if n % 5 == 0:  # killed once more on the way, at the same place of the run that goes on
            ended(child(out, make, options, lambda n=n: die_at(n)))
        assert ended(child(out, make, options))
        assert same(state(out), whole[1][0]), f"killed at call {n}"
    assert deaths == 25
