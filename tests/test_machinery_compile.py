"""Every public function compiled: torch.compile, forward and backward, compiled autograd, and torch.export."""

import io

import pytest
import torch
from program import Program, inputs, same_bits, seeded, value_and_gradients
from public import FUNCTIONS, HEADS, ROWS
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import aevb_ext
from aevb_ext._library import is_loaded

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_noisy_row = pytest.mark.parametrize("row", [row for row in ROWS if row.draws_noise], ids=str)
ELBO_ROW = next(row for row in HEADS if row.name == "nn.ELBO")
pytestmark = pytest.mark.usefixtures("fresh_compiler")
GRAPHS = {"nn.Linear", "nn.Linear-tanh", "nn.ELBO-dreg"}


@every_noisy_row
def test_noise_of_a_key_that_is_drawn_inside(row, device):
    """One graph, and the bits of eager mode, for static shapes."""
    program, arguments = Program(row, device), inputs(5, device)[:3]
    compiled = torch.compile(program, fullgraph=True, dynamic=False, backend="aot_eager")
    assert same_bits(value_and_gradients(compiled, *arguments), value_and_gradients(program, *arguments))


@every_row
def test_dynamic_shapes(row, device):
    """One graph for every batch and every beta, and the bits of eager mode."""
    program, counter = Program(row, device), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(program, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    for batch in (7, 8, 12):
        x, y, beta, key = inputs(batch, device)
        arguments = x, y, beta * batch, key
        assert same_bits(value_and_gradients(compiled, *arguments), value_and_gradients(program, *arguments))
        compilations.append(counter.frame_count)
    assert compilations == compilations[:1] * 3


@pytest.mark.parametrize("row", [row for row in (*FUNCTIONS, ELBO_ROW) if row.draws_noise], ids=str)
def test_compiled_checkpoint(row, device):
    """The backward's graph, which computes the forward again, draws the same noise."""
    program, arguments = Program(row, device), inputs(5, device)[:3]

    def checkpointed(*arguments):
        return checkpoint(program, *arguments, use_reentrant=False)

    compiled = torch.compile(checkpointed, fullgraph=True, backend="aot_eager")
    results = []
    for run in (program, compiled):
        loss, outputs = seeded(run, *arguments)
        torch.rand(1, device=device)  # what else is drawn in between
        results.append((loss, outputs, torch.autograd.grad(loss, list(program.parameters()))))
    torch.testing.assert_close(*results)


# The nodes of our own, and those that are made in Python.
@pytest.mark.parametrize("row", [*FUNCTIONS, *(row for row in HEADS if str(row) in GRAPHS)], ids=str)
def test_compiled_autograd(row, device):
    """The backward of an eager forward, in one graph, which may add gradients up in another order."""
    program, arguments = Program(row, device), inputs(7, device)
    expected = value_and_gradients(program, *arguments)
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        found = value_and_gradients(program, *arguments)
    torch.testing.assert_close(found, expected)


@every_row
def test_export(row, device):
    """An exported program, saved and loaded, with a batch that it was not exported with."""
    if row.draws_noise and not row.takes_key and not is_loaded():
        pytest.skip("torch.export does not solve for how many blocks of four words a batch of one key has")
    program, batch = Program(row, device), torch.export.Dim("batch")
    sizes = ({0: batch}, {0: batch}, None, {0: batch})
    exported = torch.export.export(program, inputs(7, device), dynamic_shapes=sizes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded, arguments = torch.export.load(file), inputs(9, device)
    if row in FUNCTIONS and is_loaded():
        assert any("aevb_ext" in str(node.target) for node in loaded.graph.nodes)
    assert same_bits(seeded(loaded.module(), *arguments), seeded(program, *arguments))


@every_noisy_row
def test_exported_noise(row, device):
    """A key that is drawn inside is drawn at every call, as eager mode draws it."""
    program, arguments = Program(row, device), inputs(7, device)[:3]
    exported = torch.export.export(program, arguments).module()
    first, second = seeded(lambda: (exported(*arguments), exported(*arguments)))
    assert same_bits((first, second), seeded(lambda: (program(*arguments), program(*arguments))))
    assert not same_bits(first, second)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic, device):
    """The whole ELBO of a minibatch, through the default backend, with the noise of eager mode bit for bit."""

    def elbo(x, mu, logvar, weight):
        z, kl = aevb_ext.rsample_kl(mu, logvar, n_samples=2)
        log_prob = aevb_ext.bernoulli_log_prob(x, z @ weight)
        return (log_prob.mean(0) - kl).mean(), z

    compiled = torch.compile(elbo, fullgraph=True, dynamic=dynamic)
    generator = torch.Generator().manual_seed(0)
    for batch in (4, 6):
        x = torch.rand(batch, 12, generator=generator).to(device)
        params = torch.randn(batch, 10, generator=generator).to(device).requires_grad_()
        weight = torch.randn(5, 12, generator=generator).to(device).requires_grad_()
        results = []
        for function in (elbo, compiled):
            torch.manual_seed(batch)
            bound, z = function(x, *params.chunk(2, 1), weight)
            results.append((z, bound, *torch.autograd.grad(bound, (params, weight)), aevb_ext.noise_key(device)))
        # Without operators Inductor computes the formulas itself, with its own rounding.
        assert torch.equal(results[0][0], results[1][0]) or not is_loaded()
        assert torch.equal(results[0][-1], results[1][-1])
        torch.testing.assert_close(results[0], results[1])


def test_two_draws_stay_two_draws(device):
    def twice(mu, logvar):
        return aevb_ext.rsample(mu, logvar), aevb_ext.rsample(mu, logvar)

    mu, logvar = torch.zeros(2, 4, 5, device=device)
    eager = seeded(lambda: twice(mu, logvar))
    compiled = seeded(lambda: torch.compile(twice, fullgraph=True)(mu, logvar))
    assert not torch.equal(*eager)
    torch.testing.assert_close(compiled, eager)
    assert same_bits(compiled, eager) or not is_loaded()  # as in test_inductor
