"""Gradients of parameters that all rows share: sums over rows that the kernels add up as they go."""

import pytest
import torch
from cases import LAYOUTS

import aevb_ext
from benchmarks.memory import peak_bytes

ROWS = (1, 7, 8, 9, 64, 65, 300, 2049)


def _gaussian(x, mu, logvar, **options):
    return aevb_ext.gaussian_log_prob(x, mu, logvar, **options)


def _zinb(x, mu, logvar, **options):
    """Of numbers that are exact in every dtype."""
    return aevb_ext.zero_inflated_negative_binomial_log_prob(
        x.floor().abs(), mu.square() + 0.5, logvar + 1.25, mu / 4, **options
    )


def _spread(function, x, mu, shape, **options):
    """A function of a spread of this shape."""

    def of(logvar):
        return function(x.to(logvar.dtype), mu.to(logvar.dtype), logvar, **options)

    generator = torch.Generator().manual_seed(1)
    return of, (torch.randint(-4, 5, shape, generator=generator) / 4).to(mu.device)


def _operands(rows, event, dtype, device, layout="contiguous"):
    generator = torch.Generator().manual_seed(0)
    x, mu = (torch.randint(-6, 7, (2, rows, *event), generator=generator) / 2).to(dtype)
    return [LAYOUTS[layout](t.to(device)) for t in (x, mu)]


def _check(of, logvar, dtype, terms):
    """That in float64 by a spread of its own for each row, whose gradients are then summed."""
    given = logvar.to(dtype).requires_grad_()
    values = of(given)
    generator = torch.Generator().manual_seed(2)
    cotangent = (torch.randint(-4, 5, values.shape, generator=generator) / 4).to(values.device, values.dtype)
    (found,) = torch.autograd.grad(values, given, cotangent)
    each = logvar.double().expand(terms).clone().requires_grad_()
    (exact,) = torch.autograd.grad(of(each), each, cotangent.double())
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    # A term has eight ulp at most; they are added in pairs, groups and PyTorch's own sum.
    bound = 30 * torch.finfo(arithmetic).eps * (1 + exact.abs()).sum_to_size(logvar.shape)
    exact = exact.sum_to_size(logvar.shape)
    if dtype != arithmetic:
        bound = bound + 0.5 * torch.finfo(dtype).eps * exact.abs()
    error = (found.double() - exact).abs()
    assert found.shape == logvar.shape and found.dtype == dtype
    assert (error <= bound).all(), f"off by {(error / bound).max():.1f} times the bound"


@pytest.mark.parametrize("event", [2, 17, 127, 128, 513, 8193])
@pytest.mark.parametrize("rows", ROWS)
def test_groups_of_rows(rows, event, device):
    """As many as are summed at a time, fewer and more; in chunks of several rows, and of parts of a row."""
    if rows * event > 1_000_000:
        rows = 70
    x, mu = _operands(rows, (event,), torch.float32, device)
    for function in (_gaussian, _zinb):
        for reduction in ("sample", "mean"):
            of, logvar = _spread(function, x, mu, (event,), reduction=reduction)
            _check(of, logvar, torch.float32, (rows, event))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 10, 7), (10, 1), (3, 10, 7), (1, 1, 1, 7)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sample", "sum"])
def test_images(layout, shape, reduction, device):
    """Of each pixel, channel, line or column, in every layout of the data."""
    for rows in (20, 70):
        x, mu = _operands(rows, (3, 10, 7), torch.float32, device, layout)
        of, logvar = _spread(_gaussian, x, mu, shape, reduction=reduction)
        _check(of, logvar, torch.float32, (rows, 3, 10, 7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype, device):
    x, mu = _operands(300, (50,), dtype, device)
    for function in (_gaussian, _zinb):
        of, logvar = _spread(function, x, mu, (50,), reduction="sample")
        _check(of, logvar, dtype, (300, 50))


def test_samples(device):
    """The decoder's outputs have sample dimensions, over which the spread's gradient is summed too."""
    x, mu = _operands(90, (40,), torch.float32, device)
    samples = torch.stack([mu, -mu, mu / 2])
    for shape in ((40,), (1, 40), (1, 1, 40)):
        of, logvar = _spread(_gaussian, x, samples, shape, reduction="sample")
        _check(of, logvar, torch.float32, (3, 90, 40))


def test_no_rows(device):
    x, mu = _operands(0, (5,), torch.float32, device)
    of, logvar = _spread(_gaussian, x, mu, (5,), reduction="sum")
    (gradient,) = torch.autograd.grad(of(logvar.requires_grad_()), logvar)
    assert torch.equal(gradient, torch.zeros(5, device=device))


def test_many_rows_that_are_alike(device):
    """A sum of one after the other would be off by thousands of ulp."""
    x, mu = torch.full((1_000_000, 2), 0.1, device=device), torch.zeros(1_000_000, 2, device=device)
    logvar = torch.zeros(2, device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(aevb_ext.gaussian_log_prob(x, mu, logvar, reduction="sum"), logvar)
    exact = 1e6 * 0.5 * (torch.tensor(0.1).double().square() - 1)
    assert (gradient.cpu().double() / exact - 1).abs().max() < 8 * torch.finfo(torch.float32).eps


@pytest.mark.compiled("of the kernels' order of summation")
@pytest.mark.parametrize("event", [5, 300, 9000])
def test_bits_do_not_depend_on_threads_or_guesses(event):
    x, mu = _operands(130, (event,), torch.float32, "cpu")
    of, logvar = _spread(_zinb, x, mu, (event,), reduction="mean")
    logvar.requires_grad_()
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, threads):
            torch.set_num_threads(number)
            found += [torch.autograd.grad(of(logvar), logvar)[0] for _ in range(3)]  # the third is guessed
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


@pytest.mark.compiled("of the kernels' memory")
@pytest.mark.cpu_kernels("of memory: sums over rows are the CPU's")
@pytest.mark.parametrize("shape", [(128, 4000), (4096, 50), (64, 100_000)], ids=str)
def test_memory(shape):
    """A part of what the gradient of each row would take."""
    x, mu = _operands(shape[0], shape[1:], torch.float32, "cpu")
    of, logvar = _spread(_gaussian, x, mu, shape[1:], reduction="mean")
    logvar.requires_grad_()

    def step():
        torch.autograd.grad(of(logvar), logvar)

    step()
    assert peak_bytes(step, torch.device("cpu")) < mu.nbytes / 6
