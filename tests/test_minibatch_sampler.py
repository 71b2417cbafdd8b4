"""The order of the data: epochs without replacement, the same whatever the batch and the number of processes."""

import pytest
import torch

from aevb_ext.noise import keys_at
from aevb_ext.train.step import MinibatchSampler

N = 23


def sequence(batch, count, **kwargs):
    """The first positions' visits, from minibatches of `batch`."""
    order = MinibatchSampler(N, batch, seed=3, **kwargs)
    return torch.cat([order.visits(step) for step in range(-(-count // batch))])[:count]


@pytest.mark.parametrize("batch", [1, 5, 23, 24, 100])
def test_each_epoch_visits_every_data_point_once(batch):
    visits = sequence(batch, 4 * N).reshape(4, N)
    assert (visits // N == torch.arange(4)[:, None]).all()
    assert ((visits % N).sort(1).values == torch.arange(N)).all()
    # A permutation is the one before with probability 1 / 23!.
    assert all((visits[e] % N != visits[e + 1] % N).any() for e in range(3))


def test_the_sequence_does_not_depend_on_the_batch():
    assert all(torch.equal(sequence(batch, 100), sequence(1, 100)) for batch in (7, 23, 64))


def test_processes_share_each_minibatch():
    whole = MinibatchSampler(N, 12, seed=3)
    for world_size in (2, 4):
        parts = [MinibatchSampler(N, 12, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
        for step in range(6):
            assert torch.equal(torch.cat([part.visits(step) for part in parts]), whole.visits(step))
        for part in parts:
            assert torch.equal(part.visits(2, 5), torch.cat([part.visits(step) for step in range(2, 7)]))
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of processes, got 12 and 5"):
        MinibatchSampler(N, 12, seed=3, world_size=5)


@pytest.mark.parametrize("batch", [5, 23, 60])
def test_what_moves_on_on_the_device_is_the_same(batch):
    order = MinibatchSampler(N, batch, seed=1)
    for step in range(20):
        order.prepare(step)
        assert torch.equal(order.advance(), keys_at(1, "posterior", order.visits(step)))


def test_a_run_may_begin_anywhere():
    order = MinibatchSampler(N, 5, seed=1)
    for step in (7, 8, 2, 40, 41):
        order.prepare(step)
        assert torch.equal(order.advance()[:, 1], MinibatchSampler(N, 5, seed=1).visits(step))


def test_seeds_have_different_orders():
    firsts = {
        tuple(MinibatchSampler(N, N, seed=seed).visits(epoch).tolist()) for seed in range(10) for epoch in range(1)
    }
    later = {tuple((MinibatchSampler(N, N, seed=seed).visits(1) % N).tolist()) for seed in range(10)}
    # The second epoch of one seed is not the first of another.
    assert len(firsts) == len(later) == 10 and not firsts & later
