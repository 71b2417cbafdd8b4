"""1, 2 and 4 processes that train together take the same steps; if one fails all end, and the run can be resumed."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from torch import distributed, nn

from aevb_ext.data import Data, load
from aevb_ext.estimators import evaluate_bound
from aevb_ext.models import VAE, BernoulliDecoder, mlp_vae
from aevb_ext.train import Callback, Processes, Settings, fit
from aevb_ext.train import distributed as train_distributed
from aevb_ext.train.evaluation import shared_bound
from aevb_ext.train.run import Run

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no torch.distributed")

SIZES = 1, 2, 4
SECONDS = 120  # after which processes that hang are ended, on a machine with other work
N, DIM, LATENT, M = 50, 6, 2, 12

CASES = {
    "b": {},
    "a, 3 samples": {"estimator": "a", "n_samples": 3},
    "iwae": {"estimator": "iwae", "n_samples": 3},
    "iwae in blocks": {"estimator": "iwae", "n_samples": 3, "sample_block": 2},
    "free bits": {"free_bits": 0.5, "beta": 0.5, "beta_warmup": 5},
    "in parts": {"accumulate": 3, "clip": 0.05, "ema": 0.9, "lr_warmup": 4, "schedule": "cosine"},
    "skipping": {"non_finite": "skip"},
    "wake-sleep": {"learner": "wake-sleep", "accumulate": 3},
    "full-vb": {"learner": "full-vb", "accumulate": 3},
}
TRAINED = [(name, torch.float64) for name in CASES] + [("b", torch.float32), ("in parts", torch.float32)]


# What the processes do. They come from one that has imported everything, which takes seconds, and has begun no threads.
# (PyTorch's optimizers import its compiler at their first step.)


def start(n, work, *arguments):
    """Run ``work(rank, *arguments)`` in n processes; their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["aevb_ext.train", "aevb_ext.cli", "torch._dynamo"])
    processes = [context.Process(target=work, args=(rank, *arguments)) for rank in range(n)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0.1, deadline - time.monotonic()))
    hung = [process for process in processes if process.exitcode is None]
    for process in hung:
        process.kill()
    assert not hung, f"{len(hung)} of {n} processes have not ended after {SECONDS} seconds"
    return [process.exitcode for process in processes]


def model(dtype=torch.float64):
    vae = mlp_vae(DIM, latent=LATENT, hidden=5, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        for parameter in vae.parameters():
            # So large that the divergence is around the free bits below, for some shares of a minibatch and not others.
            parameter *= 40
    return vae


def small_data(dtype=torch.float64, n_test=20):
    x = torch.rand(N + n_test, DIM, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return Data("small", x[:N], x[N:], image_shape=(2, 3))


def settings(**options):
    usual = {"samples_seen": 15 * M, "batch_size": M, "optimizer": "sgd", "lr": 0.01, "log_every": 1}
    return Settings(**usual | options)


class Logged(Callback):
    def __init__(self):
        self.bounds = []

    def on_log(self, run, log):
        self.bounds.append(log.bound)


def trained(processes, dtype, options):
    """The running bounds of a run's steps, the parameters at its end and their average, and the last record."""
    vae, logged = model(dtype), Logged()
    result = fit(
        vae,
        small_data(dtype),
        settings=settings(**options),
        processes=processes,
        callbacks=[logged],
        progress=False,
    )
    return logged.bounds, [p.detach() for p in vae.parameters()], (result.train.mean, result.test.mean)


class Nothing(nn.Module):
    """The encoder of a posterior that is the prior: its samples are the noise, to the last bit."""

    def forward(self, x):
        return x.new_zeros(len(x), 2 * LATENT)


def drawn(processes, folder, resident):
    """Of each step: this process's binarised data points, their keys, and the noise."""
    net = nn.Linear(LATENT, DIM)
    vae, found = VAE(Nothing(), BernoulliDecoder(net), LATENT), []
    file = f"{folder}/drawn {processes.world_size} {processes.rank}.npy"
    np.save(file, small_data(torch.float32).train.numpy())
    data = load(file, binarize="dynamic", resident_bytes=1 << 30 if resident else 0)
    net.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().clone()))
    run = Run(vae, data, settings(), processes=processes)
    run.learner.objective.register_forward_pre_hook(lambda _, inputs: found.extend(inputs))
    for _ in range(6):
        run.step()
    run.leave()
    return {"x": found[0::3], "keys": found[1::3], "noise": found[2::3]}


class Dropping(nn.Module):
    """An encoder with dropout and a batch norm, that keeps its masks."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(DIM, 64), nn.BatchNorm1d(64), nn.Dropout(0.5)
        self.last, self.masks = nn.Linear(64, 2 * LATENT), []

    def forward(self, x):
        h = self.drop(self.norm(self.first(x)))
        if self.training:
            self.masks.append((h != 0).flatten())
        return self.last(h)


def dropping(processes, folder):
    """The masks of a run's steps, and of those it goes on with; its model at the end, and the bound it said of it."""
    torch.manual_seed(0)
    encoder, found = Dropping(), []
    vae = VAE(encoder, BernoulliDecoder(nn.Linear(LATENT, DIM)), LATENT)
    # So many that several processes share evaluations.
    data, out = small_data(torch.float32, n_test=1500), f"{folder}/dropping {processes.world_size}"
    for steps in (4, 8):
        # As programs do: alike in all processes.
        torch.manual_seed(0)
        how = {"processes": processes, "progress": False, "resume": steps == 8, "out": out}
        bound = fit(vae, data, settings=settings(samples_seen=steps * M, lr=1e-4), **how).test.mean
        found += encoder.masks
        encoder.masks.clear()
    return {"masks": torch.stack(found), "model": vae.eval(), "bound": bound, "data": data.test}


def stopped(processes):
    """When a run ends that the last process asks to end after its fourth step, and why."""
    run = Run(model(), small_data(), settings(), processes=processes)
    while not run.stopped:
        run.step()
        if processes.rank == processes.world_size - 1 and run.steps == 4:
            run.stop("enough")
        run.agree(now=False)
    run.agree()
    run.leave()
    return run.steps, run.stopped


def of_many(what, processes):
    """The same as if these processes were 8 times as many, and asked at each second or fourth step."""
    try:
        train_distributed._EACH_STEP = 1
        return what(processes)
    finally:
        train_distributed._EACH_STEP = 8


def refused(processes, folder):
    """What each process raises where the folder, which only the first looks at, is not empty; and of bad arguments."""
    found = []
    for options in ({"out": folder}, {"batch_size": 7 * processes.world_size + 1}, {"lr": -1.0}):
        try:
            fit(model(), small_data(), processes=processes, progress=False, **options)
        except Exception as error:
            found.append((type(error).__name__, str(error)))
    return found


def many_points(dtype=torch.float32):
    return torch.rand(2345, DIM, dtype=dtype, generator=torch.Generator().manual_seed(1))


def work_in_groups(rank, folder):
    """As 1, 2 and 4 processes, one after the other."""
    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=20)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=max(SIZES), timeout=timeout)
    groups = {size: distributed.new_group(list(range(size)), backend="gloo") for size in SIZES}
    for size, group in groups.items():
        if rank >= size:
            continue
        processes = Processes(rank, size, group=group, control=group)
        found = {
            "trained": {case: trained(processes, case[1], CASES[case[0]]) for case in TRAINED},
            "drawn": drawn(processes, folder, resident=True),
            "drawn from a file": drawn(processes, folder, resident=False),
            "evaluated": shared_bound(model(torch.float32), many_points(), processes, n_samples=2),
            "stopped": stopped(processes),
            "stopped, of many": of_many(stopped, processes),
            "refused": refused(processes, folder) if size > 1 else None,
            "dropping": dropping(processes, folder) if size > 1 else None,
        }
        torch.save(found, f"{folder}/{size}-{rank}")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each process found, by the number of processes."""
    folder = tmp_path_factory.mktemp("together")
    assert start(max(SIZES), work_in_groups, folder) == [0] * max(SIZES)
    return {size: [torch.load(folder / f"{size}-{rank}", weights_only=False) for rank in range(size)] for size in SIZES}


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_noise_is_the_same_bit_for_bit(together, size):
    """Which data points a step is of, how they are binarised, and the noise of their latents."""
    (alone,) = together[1]
    for where in ("drawn", "drawn from a file"):
        for name, steps in alone["drawn"].items():
            assert len(steps) == 6
            for step, expected in enumerate(steps):
                found = torch.cat([process[where][name][step] for process in together[size]])
                assert torch.equal(found, expected), (where, name, step)


@pytest.mark.parametrize(("case", "dtype"), TRAINED, ids=str)
@pytest.mark.parametrize("size", SIZES[1:])
def test_the_steps_are_the_same_to_the_order_of_sums(together, size, case, dtype):
    # 15 steps of SGD do not amplify rounding: a few units in the last place of sums of a dozen terms.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}[dtype]
    bounds, parameters, evaluated = together[1][0]["trained"][case, dtype]
    for rank, process in enumerate(together[size]):
        found, theirs, theirs_evaluated = process["trained"][case, dtype]
        # Only the first one's callbacks are called.
        assert len(found) == (len(bounds) if rank == 0 else 0)
        if rank == 0:
            torch.testing.assert_close(found, bounds, rtol=tolerance, atol=0)
        # SGD moves each parameter by some 1e-2 in these steps.
        torch.testing.assert_close(theirs, parameters, rtol=tolerance, atol=tolerance / 10)
        torch.testing.assert_close(theirs_evaluated, evaluated, rtol=tolerance, atol=0)
        # All processes have the same bits, or they would drift apart.
        first = together[size][0]["trained"][case, dtype]
        assert all(torch.equal(p, q) for p, q in zip(theirs, first[1], strict=True)) and theirs_evaluated == first[2]


def test_learning_is_not_nothing(together):
    """The tolerances above are small beside what the steps change, and free bits were in force."""
    (alone,) = together[1]
    start_parameters = list(model().parameters())
    for name in CASES:
        moved = alone["trained"][name, torch.float64][1]
        assert max((p - q).abs().max() for p, q in zip(moved, start_parameters, strict=True)) > 1e-3, name
    assert alone["trained"]["free bits", torch.float64][0][-1] != alone["trained"]["b", torch.float64][0][-1]


@pytest.mark.parametrize("size", SIZES)
def test_samples_in_blocks_are_the_samples_at_once(together, size):
    for process in together[size]:
        (_, at_once, evaluated), (_, in_blocks, theirs) = (
            process["trained"][case, torch.float64] for case in ("iwae", "iwae in blocks")
        )
        torch.testing.assert_close(in_blocks, at_once, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(theirs, evaluated, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_evaluations_are_shared_out_without_a_change_of_a_bit(together, size):
    expected = together[1][0]["evaluated"]
    assert all(process["evaluated"] == expected for process in together[size])
    alone = evaluate_bound(model(torch.float32), many_points(), n_samples=2)
    assert expected.count == alone.count == 2345
    assert expected.mean == pytest.approx(alone.mean, rel=1e-6) and expected.stderr == pytest.approx(
        alone.stderr, rel=1e-4
    )


@pytest.mark.parametrize("size", SIZES)
def test_all_stop_at_the_same_step(together, size):
    expected = (4 if size == 1 else 5, "enough")
    assert [process["stopped"] for process in together[size]] == [expected] * size
    # Asked for at the fourth step, when all are asked, and known when they are asked again.
    expected = (4 if size == 1 else 4 + size, "enough")
    assert [process["stopped, of many"] for process in together[size]] == [expected] * size


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_error_of_one_before_training_is_one_of_all(together, size):
    for rank, process in enumerate(together[size]):
        (kind, text), (_, of_size), (_, of_lr) = process["refused"]
        assert kind == ("FileExistsError" if rank == 0 else "PeerFailed") and "not empty" in text
        assert "batch_size" in of_size and f"{size} * 1, got {7 * size + 1}" in of_size
        assert "lr must be" in of_lr


@pytest.mark.parametrize("size", SIZES[1:])
def test_each_process_drops_out_what_it_draws_itself(together, size):
    """At the start and after a run goes on, though all of them had the same seed."""
    masks = torch.cat([process["dropping"]["masks"] for process in together[size]])
    assert masks.shape == (size * 8, M // size * 64)
    alike = (masks[:, None] == masks).double().mean(-1)
    alike.fill_diagonal_(0.5)
    # Independent bits are alike half of the time: within 6 standard errors, for at most 496 pairs of masks, with
    # probability 1 - 1e-6. Those of one process and run are of one generator.
    assert (alike - 0.5).abs().max() < 6 * 0.5 / masks.shape[1] ** 0.5
    assert abs(masks.double().mean() - 0.5) < 6 * 0.5 / masks.numel() ** 0.5


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_processes_evaluate_together_is_the_model_of_the_first(together, size):
    """Batch norms, whose running statistics are of each process's own share."""
    first = together[size][0]["dropping"]
    alone = evaluate_bound(first["model"], first["data"]).mean
    assert [process["dropping"]["bound"] for process in together[size]] == [pytest.approx(alone, rel=1e-6)] * size
    assert not torch.equal(first["model"].encoder.norm.running_mean, torch.zeros(64))


# The command line, as torchrun starts it.


def work_as_command(rank, size, port, folder, arguments, dies_at):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name in ("stdout", "stderr"):
        file = os.open(f"{folder}/{name}-{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, {"stdout": 1, "stderr": 2}[name])
    if rank == size - 1 and dies_at is not None:
        _die_at(dies_at)
    from aevb_ext.cli import main

    raise SystemExit(main([str(argument) for argument in arguments]))


def _die_at(step):
    from aevb_ext.learners import AEVB

    update = AEVB.update

    def update_or_die(self, *arguments):
        if self.steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *arguments)

    AEVB.update = update_or_die


def command(size, folder, *arguments, dies_at=None):
    """The exit codes, and what all of them printed to each stream."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    codes = start(size, work_as_command, size, port, folder, arguments, dies_at)
    return codes, *(
        "".join((folder / f"{name}-{rank}").read_text() for rank in range(size)) for name in ("stdout", "stderr")
    )


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def evaluations(out):
    return {line["steps"]: line["test"] for line in lines_of(out) if line["event"] == "evaluation"}


TRAIN = ("train", "--hidden", "5", "--batch-size", "100", "--samples-seen", "30_000", "--evaluate-every", "10_000")
TRAIN += ("--optimizer", "adam")


def test_one_that_is_killed_ends_all_and_any_number_goes_on(tmp_path):
    """As it was never killed: other numbers of processes take the same steps, to the order of sums."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    codes, printed, told = command(1, tmp_path / "1", *TRAIN, "--out", whole)
    assert codes == [0]
    before = time.monotonic()
    codes, printed, told = command(2, tmp_path / "2", *TRAIN, "--out", out, dies_at=205)
    assert codes == [1, -signal.SIGKILL] and time.monotonic() - before < SECONDS
    assert "test bound" not in printed
    assert told.count("aevb: error: ") == 1
    assert "at step 205 another of the 2 processes ended" in told and "last checkpoint" in told
    at_death = evaluations(out)
    assert max(at_death) == 200
    # Further with 4, then alone, then with 2.
    for size, steps in ((4, 230), (1, 260), (2, 300)):
        further = ("--out", out, "--resume", "--samples-seen", steps * 100)
        codes, printed, told = command(size, tmp_path / f"resumed {size}", *TRAIN, *further)
        assert codes == [0] * size, told
        assert printed.count("test bound") == 1
        assert max(int(path.stem) for path in out.glob("checkpoints/*.safetensors")) == steps
    found, expected = evaluations(out), evaluations(whole)
    # The ends on the way were evaluated too.
    assert found.keys() == expected.keys() | {230, 260} and found.items() >= at_death.items()
    assert [line["steps"] for line in lines_of(out) if line["event"] == "resumed"] == [200, 230, 260]
    # 300 steps of Adam, whose division by small gradients amplifies rounding.
    assert found[300] == pytest.approx(expected[300], abs=0.5)
    assert abs(expected[200] - expected[300]) > 5


@pytest.mark.parametrize("bad", [("--lr", "-1"), ("--batch-size", "101"), ("--nonsense",)], ids=str)
def test_bad_arguments_are_told_of_once(tmp_path, bad):
    codes, printed, told = command(2, tmp_path / "bad", *TRAIN, "--out", tmp_path / "run", *bad)
    assert all(code != 0 for code in codes) and printed == ""
    # PyTorch's processes may tell of each other's end in words that have errors in them.
    errors = [line for line in told.splitlines() if re.match("aevb.*error: ", line)]
    assert len(errors) == 1 and not (tmp_path / "run").exists()


def test_an_error_of_all_is_told_of_once_however_late_the_others_are(capsys):
    """The first one, with whom the store ends, stays until they have looked there."""
    store = distributed.HashStore()
    first, second = (Processes(rank, 2, store=store) for rank in range(2))
    late = threading.Timer(0.5, second.tell, ["an error"])
    late.start()
    first.tell("an error")
    assert not late.is_alive() or store.add(train_distributed._TOLD, 0) == 2
    late.join()
    assert capsys.readouterr().err == "an error\n"
    began = time.monotonic()
    Processes(0, 2, store=distributed.HashStore()).tell("another")  # which nobody else has
    assert train_distributed._STAYS <= time.monotonic() - began < train_distributed._STAYS + 5


# What people type. It starts Python four times, each of which imports torch.


def torchrun(*arguments):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "aevb_ext"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *command, *arguments]
    return subprocess.Popen(map(str, arguments), env=environment, stdout=PIPE, stderr=PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_torchrun(tmp_path):
    """A job of torchrun, one of whose processes is killed, ends with an error; started again, it ends well."""
    out = tmp_path / "run"
    train = (*TRAIN, "--out", out, "--log-every", "20", "--samples-seen", "1e9")
    job = torchrun(*train)
    try:
        wait_for(lambda: (out / "metrics.jsonl").exists() and max(evaluations(out), default=0) >= 200, job)
        children = [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
        # Its processes, and none of those that it starts for itself.
        _, second = [pid for pid in children if b"aevb_ext" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(second, signal.SIGKILL)
        printed, told = job.communicate(timeout=SECONDS)
    finally:
        job.kill()
    assert job.returncode not in (0, None) and "test bound" not in printed
    # torchrun may end the other one before it has said why.
    errors = [line for line in told.splitlines() if line.startswith("aevb: error: ")]
    assert all("at step " in line and "another of the 2 processes ended" in line for line in errors)
    end = 100 * (max(evaluations(out)) + 50)
    job = torchrun(*train, "--resume", "--samples-seen", end)
    printed, told = job.communicate(timeout=SECONDS)
    assert job.returncode == 0, told
    assert printed.count("test bound") == 1 and max(evaluations(out)) == end / 100
    assert json.loads((out / "environment.json").read_text())["processes"] == 2


def wait_for(condition, job):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
