"""Every public thing under torch.func: grad, vmap, jacrev, per-sample gradients, and noise under vmap."""

import pytest
import torch
from public import ROWS, Program, inputs, value_and_gradients
from torch.func import functional_call, grad, jacrev, vmap

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_noisy_row = pytest.mark.parametrize("row", [row for row in ROWS if row.draws_noise], ids=str)


def _parameters(program):
    return {name: p.detach() for name, p in program.named_parameters()}


def _program(row, device):
    """In float64, so that rounding is not what is compared."""
    return Program(row, device).double(), inputs(4, device, torch.float64)


def _stacked(trees):
    return torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


@every_row
def test_grad(row, device):
    program, (x, *rest) = _program(row, device)

    def loss(parameters, x):
        return functional_call(program, parameters, (x, *rest))[0]

    of_parameters, of_x = grad(loss, (0, 1))(_parameters(program), x)
    expected = value_and_gradients(program, x, *rest)[2]
    torch.testing.assert_close([*of_parameters.values(), of_x], list(expected))


@every_row
def test_jacrev(row, device):
    """Of every output."""
    program, (x, *rest) = _program(row, device)

    def outputs(x):
        return program(x, *rest)[1]

    torch.testing.assert_close(jacrev(outputs)(x), torch.autograd.functional.jacobian(outputs, x))


@every_row
def test_vmap_over_parameters(row, device):
    """An ensemble."""
    program, arguments = _program(row, device)
    members = [{name: scale * p for name, p in _parameters(program).items()} for scale in (1, 2, -1)]

    def run(parameters):
        return functional_call(program, parameters, arguments)

    torch.testing.assert_close(vmap(run)(_stacked(members)), _stacked([run(member) for member in members]))


@every_row
def test_vmap_over_data(row, device):
    """Minibatches, which need not be in front."""
    program, (x, y, *rest) = _program(row, device)
    batches = [(x, y), (x + 1, y / 2), (-x, 1 - y)]

    def run(x, y):
        return program(x, y, *rest)

    found = vmap(run, in_dims=(2, 1))(torch.stack([x for x, _ in batches], 2), torch.stack([y for _, y in batches], 1))
    torch.testing.assert_close(found, _stacked([run(*batch) for batch in batches]))


@every_row
def test_gradients_of_each_data_point(row, device):
    program, (x, y, beta, key) = _program(row, device)

    def loss(parameters, x, y):
        return functional_call(program, parameters, (x.unsqueeze(0), y.unsqueeze(0), beta, key))[0]

    parameters = _parameters(program)
    found = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    torch.testing.assert_close(found, _stacked([grad(loss)(parameters, *pair) for pair in zip(x, y, strict=True)]))
