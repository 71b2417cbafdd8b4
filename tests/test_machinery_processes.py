"""Every public function in several processes: DistributedDataParallel, DataLoader's workers, and after a fork."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from program import Program, inputs, same_bits, seeded, value_and_gradients
from public import ROWS
from torch.nn.parallel import DistributedDataParallel

import aevb_ext

every_row = pytest.mark.parametrize("i", range(len(ROWS)), ids=map(str, ROWS))
linux = pytest.mark.skipif(sys.platform != "linux", reason="no fork")
SECONDS = 20  # after which a process that hangs is ended
MINUTES_TOGETHER = 3  # the same for two that train, on a machine with other work


def _half(rank):
    """Of a minibatch, for one of two processes."""
    x, y, beta, keys = inputs(6)
    x, y, keys = (t.chunk(2)[rank] for t in (x, y, keys))
    return x, y, beta, keys


def _train_together(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    gradients = []
    for row in ROWS:
        program = DistributedDataParallel(Program(row))
        seeded(program, *_half(rank))[0].backward()
        gradients.append([p.grad for p in program.parameters()])
    torch.save(gradients, f"{folder}/{rank}")
    # Neither leaves while the other may still need it, and nothing that communicates outlives the group.
    torch.distributed.barrier()
    del program
    torch.distributed.destroy_process_group()


def _join(processes):
    """Wait for them, but not forever."""
    deadline = time.monotonic() + MINUTES_TOGETHER * 60
    while not processes.join(timeout=max(deadline - time.monotonic(), 0.1)):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"two processes have not ended after {MINUTES_TOGETHER} minutes")


@pytest.fixture(scope="module")
def trained_together():
    """The gradients that two processes averaged, as each has them."""
    with tempfile.TemporaryDirectory() as folder:
        _join(torch.multiprocessing.spawn(_train_together, (folder,), nprocs=2, join=False))
        yield [torch.load(Path(folder) / str(rank)) for rank in range(2)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@every_row
def test_distributed_data_parallel(trained_together, i):
    """The gradients of the whole minibatch, and the same bits in both processes."""
    found, other = (gradients[i] for gradients in trained_together)
    assert same_bits(found, other)
    row, program = ROWS[i], Program(ROWS[i])
    halves = [value_and_gradients(program, *_half(rank))[2][:-1] for rank in range(2)]
    torch.testing.assert_close(found, [(a + b) / 2 for a, b in zip(*halves, strict=True)])
    if not row.couples_points and row.takes_key:
        torch.testing.assert_close(found, list(value_and_gradients(program, *inputs(6))[2][:-1]))


class _Losses(torch.utils.data.Dataset):
    """Of each row: what its program gives, and its gradients."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        program = Program(ROWS[i])
        loss, outputs, gradients = value_and_gradients(program, *inputs(4))
        return [loss.detach(), *(o.detach() for o in outputs), *gradients]


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers(start):
    """What a data set computes in a worker is what it computes here."""
    here = _Losses()
    expected = [here[i] for i in range(len(ROWS))]
    loader = torch.utils.data.DataLoader(
        here, batch_size=None, num_workers=2, multiprocessing_context=start, timeout=SECONDS
    )
    for row, found, wanted in zip(ROWS, loader, expected, strict=True):
        assert same_bits(found, wanted), str(row)


def _large():
    """The bytes of a step whose rows the operators share out among threads, and PyTorch's additions do not."""
    generator = torch.Generator().manual_seed(0)
    x, params = torch.rand(10, 3000, generator=generator), torch.randn(10, 6000, generator=generator).requires_grad_()
    mu, logvar = aevb_ext.halves(params)
    z, kl = aevb_ext.rsample_kl(mu, logvar, key=torch.tensor([1, 2]))
    bound = aevb_ext.bernoulli_log_prob(x, z) + aevb_ext.gaussian_log_prob(x, z, logvar) - kl
    results = bound, z, *torch.autograd.grad(bound, params, torch.full_like(bound, 3))
    return [t.detach().numpy().tobytes() for t in results]


@pytest.mark.compiled("PyTorch's own operators wait in the child for threads that are not there")
@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_the_child_of_a_fork():
    """The threads that worked for the parent are not there: nobody waits for them, and the bits are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = _large()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os._exit(0 if _large() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert _large() == expected
    finally:
        torch.set_num_threads(threads)
