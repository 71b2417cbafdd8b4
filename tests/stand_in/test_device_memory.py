"""What CUDA's allocator has given out: between forward and backward the results, and gradients that were guessed."""

import gc

import pytest
import torch
from cases import OPERATORS, Case, Shape
from no_numbers import RUNTIME

import aevb_ext

pytestmark = pytest.mark.skipif(not RUNTIME, reason="the CPU build of PyTorch has no allocator of CUDA")

SMALL = 4096  # sums of blocks of a row, gradients of single numbers


@pytest.fixture(autouse=True, scope="module")
def no_garbage():
    """Of other tests, which would be freed while these measure."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _bytes(tensors):
    """Of each storage once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _measured(run, given=()):
    """What it gives, and the bytes beside its results: those that are left, and the most that there were in between."""

    def asked_for(when):
        return torch.cuda.memory_stats()[f"requested_bytes.all.{when}"]

    torch.cuda.reset_peak_memory_stats()
    before = asked_for("current")
    results = run()
    held, most = asked_for("current") - before, asked_for("peak") - before
    own = _bytes([*given, *results]) - _bytes(given)  # a result may be what was given
    return results, held - own, most - own


@pytest.mark.parametrize("layout", ["contiguous", "halves"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [Shape((640,), (784,)), Shape((3,), (3 * 8192 + 8,))], ids=["rows", "long"])
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_forward_and_backward(operator, shape, dtype, layout):
    call = Case(operator, shape, dtype, layout=layout).build("cuda").differentiable()
    inputs = list(call.floating().values())
    outputs, held, most = _measured(call.run)
    if operator.reduces and not operator.draws_noise:
        guesses = held - sum(t.nbytes for t in inputs)  # beside gradients: one for each block of a row
        assert 0 < guesses <= SMALL
    else:
        assert held == 0
    assert most - held <= SMALL
    cotangents = [torch.empty_like(o) for o in outputs]
    _, after, most = _measured(lambda: torch.autograd.grad(outputs, inputs, cotangents), cotangents)
    assert after == -held and most <= SMALL


def test_a_key_is_all_that_a_draw_adds():
    mu, logvar = (torch.zeros(640, 784, device="cuda", requires_grad=True) for _ in range(2))
    _, held, most = _measured(lambda: [aevb_ext.rsample(mu, logvar, n_samples=3)])
    assert held == most == 16


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_a_layer_and_its_likelihood(kind):
    """64 MiB of the layer's output at a time, and in the backward of its gradient; of 512."""
    block, rows = 64 << 20, (512 << 20) // (784 * 4)
    x, h = torch.empty(rows, 784, device="cuda"), torch.empty(rows, 20, device="cuda", requires_grad=True)
    weight = torch.empty(784, 20, device="cuda", requires_grad=True)
    function, options = {
        "bernoulli": (aevb_ext.linear_bernoulli_log_prob, {}),
        "gaussian": (aevb_ext.linear_gaussian_log_prob, {"logvar": torch.zeros((), device="cuda"), "sigmoid": True}),
    }[kind]

    def forward(rows):
        return [function(x[:rows], h[:rows], weight, **options)]

    def backward(values):
        cotangents = [torch.empty_like(value) for value in values]
        return _measured(lambda: torch.autograd.grad(values, (h, weight), cotangents))

    backward(forward(rows=1))  # the library of matrix products takes memory for itself
    values, held, most = _measured(lambda: forward(rows))
    assert held == 0 and most <= block + SMALL
    _, held, most = backward(values)
    assert held == 0 and most <= 2 * block + (1 << 20)
