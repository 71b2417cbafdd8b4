"""Every public function under torch.func: grad, vmap, jacrev, per-sample gradients, and noise under vmap."""

import pytest
import torch
from program import Program, inputs, same_bits, seeded, value_and_gradients
from public import FUNCTIONS, ROWS
from torch.func import functional_call, grad, jacrev, jvp, vmap

# A floor of a variance is set in place.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

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

    of_parameters, of_x = seeded(grad(loss, (0, 1)), _parameters(program), x)
    expected = value_and_gradients(program, x, *rest)[2]
    torch.testing.assert_close([*of_parameters.values(), of_x], list(expected))


@every_row
def test_jacrev(row, device):
    """Of every output."""
    program, (x, *rest) = _program(row, device)

    def outputs(x):
        return seeded(program, x, *rest)[1]

    torch.testing.assert_close(jacrev(outputs)(x), torch.autograd.functional.jacobian(outputs, x))


@every_row
def test_vmap_over_parameters(row, device):
    """An ensemble."""
    program, arguments = _program(row, device)
    members = [{name: scale * p for name, p in _parameters(program).items()} for scale in (1, 2, -1)]

    def run(parameters):
        return functional_call(program, parameters, arguments)

    found = seeded(vmap(run, randomness="same"), _stacked(members))
    torch.testing.assert_close(found, _stacked([seeded(run, member) for member in members]))


@every_row
def test_vmap_over_data(row, device):
    """Minibatches, which need not be in front."""
    program, (x, y, *rest) = _program(row, device)
    batches = [(x, y), (x + 1, y / 2), (-x, 1 - y)]

    def run(x, y):
        return program(x, y, *rest)

    stacked = torch.stack([x for x, _ in batches], 2), torch.stack([y for _, y in batches], 1)
    found = seeded(vmap(run, in_dims=(2, 1), randomness="same"), *stacked)
    torch.testing.assert_close(found, _stacked([seeded(run, *batch) for batch in batches]))


@every_row
def test_gradients_of_each_data_point(row, device):
    program, (x, y, beta, keys) = _program(row, device)

    def loss(parameters, x, y, key):
        return functional_call(program, parameters, (x.unsqueeze(0), y.unsqueeze(0), beta, key.unsqueeze(0)))[0]

    parameters = _parameters(program)
    found = seeded(vmap(grad(loss), (None, 0, 0, 0), randomness="same"), parameters, x, y, keys)
    points = zip(x, y, keys, strict=True)
    torch.testing.assert_close(found, _stacked([seeded(grad(loss), parameters, *point) for point in points]))


@every_noisy_row
def test_randomness(row, device):
    """Of a key that is drawn inside vmap: as vmap is told."""
    program, (x, y, beta, _) = _program(row, device)
    batches = torch.stack([x, x, x])

    def run(x):
        return program(x, y, beta)[1]

    with pytest.raises(RuntimeError, match="randomness"):
        vmap(run)(batches)
    torch.testing.assert_close(
        seeded(vmap(run, randomness="same"), batches), _stacked([seeded(run, x) for x in batches])
    )
    found = seeded(vmap(run, randomness="different"), batches)
    torch.testing.assert_close(found, seeded(lambda: _stacked([run(x) for x in batches])))
    first, second, _ = zip(*(output.unbind() for output in found), strict=True)
    assert not same_bits(first, second)


@pytest.mark.parametrize("row", FUNCTIONS, ids=str)
def test_forward_mode(row, device):
    """It is refused by name, except of views."""
    program, (x, *rest) = _program(row, device)

    def outputs(x):
        return program(x, *rest)[1]

    if row.name == "halves":
        found = jvp(outputs, (x,), (torch.ones_like(x),))[1]
        torch.testing.assert_close(found, torch.autograd.functional.jvp(outputs, x, torch.ones_like(x))[1])
    else:
        node = row.name.title().replace("_", "")
        with pytest.raises(NotImplementedError, match=f"{node} has no forward-mode derivative; use reverse mode"):
            jvp(outputs, (x,), (torch.ones_like(x),))
