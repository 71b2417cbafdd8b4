"""The sampler's statistics, at stated error rates.

Keys are fixed, so the tests are deterministic: the error rate says how often a perfect sampler would have been
unlucky with the keys that were chosen. ERROR_RATE is that of each comparison; there are under 1000 of them, so that
the whole file would fail a perfect sampler for fewer than one choice of keys in 1000.
"""

import math

import pytest
import torch

import aevb_ext

stats = pytest.importorskip("scipy.stats")

ERROR_RATE = 1e-6
N = 1 << 20


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def draw(request, device):
    """Standard normals of a key, in float64."""

    def draw(seed, offset=0, n=N):
        zeros = torch.zeros(n, dtype=request.param, device=device)
        return aevb_ext.rsample(zeros, zeros, key=torch.tensor([seed, offset], device=device)).double()

    return draw


def _is_standard(mean, variance_of_mean):
    """Whether the mean of many independent terms is within its error of 0."""
    z = abs(float(mean)) / math.sqrt(variance_of_mean)
    assert z <= stats.norm.isf(ERROR_RATE / 2), f"{z:.2f} standard errors"


@pytest.mark.parametrize("seed", [0, 1, 2**32, -1, 1312_6114])
def test_moments(draw, seed):
    z = draw(seed)
    # E[He_k] = 0 and Var[He_k] = k! for the Hermite polynomials: the moments, but uncorrelated.
    hermite = [z, z**2 - 1, z**3 - 3 * z, z**4 - 6 * z**2 + 3, z**5 - 10 * z**3 + 15 * z]
    for k, values in enumerate(hermite, start=1):
        _is_standard(values.mean(), math.factorial(k) / N)


@pytest.mark.parametrize("seed", [0, 1, 2**32, -1, 1312_6114])
def test_kolmogorov_smirnov(draw, seed):
    assert stats.kstest(draw(seed).cpu().numpy(), "norm").pvalue > ERROR_RATE


@pytest.mark.parametrize("position", range(4))
def test_each_word_of_a_block(draw, position):
    assert stats.kstest(draw(3)[position::4].cpu().numpy(), "norm").pvalue > ERROR_RATE


def test_tails(draw):
    """As many normals beyond each threshold as there should be, on both sides."""
    z = draw(7, n=4 * N)
    for threshold in (2.0, 3.0, 4.0, 4.5, 5.0):
        for tail in (z > threshold, z < -threshold):
            count = int(tail.sum())
            assert stats.binomtest(count, 4 * N, stats.norm.sf(threshold)).pvalue > ERROR_RATE
    # The smallest uniform is 2^-33: no radius is beyond the largest that 32 bits allow.
    assert z.abs().max() <= math.sqrt(2 * 33 * math.log(2)) + 1e-6


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 16, 64, 784, 1024, 8192])
def test_neighbours(draw, lag):
    """Neighbours are uncorrelated, and so are their squares (pairs of one radius share it)."""
    z = draw(11)
    a, b = z[:-lag], z[lag:]
    _is_standard((a * b).mean(), 1 / a.numel())
    _is_standard(((a**2 - 1) * (b**2 - 1)).mean(), 4 / a.numel())


@pytest.mark.parametrize("step", [1, 2, 2**31, 2**32, 2**33, 2**62])
@pytest.mark.parametrize("part", ["seed", "offset"])
def test_noise_keys(draw, part, step):
    """Keys that differ by little, in the seed or in the offset, give unrelated noise, also a few elements apart."""
    z = draw(100, 200)
    other = draw(100 + step, 200) if part == "seed" else draw(100, 200 + step)
    for lag in (0, 1, 2, 3, 4, 8):
        a, b = z[: N - lag], other[lag:]
        _is_standard((a * b).mean(), 1 / a.numel())
        _is_standard(((a**2 - 1) * (b**2 - 1)).mean(), 4 / a.numel())


def test_the_two_normals_of_a_pair_are_independent(draw):
    """The angle is uniform and the radius is Rayleigh's, one whatever the other."""
    pairs = draw(13).reshape(-1, 2)
    turns = (torch.atan2(pairs[:, 1], pairs[:, 0]) / (2 * math.pi)) % 1
    survival = torch.exp(-0.5 * pairs.square().sum(1))
    table = torch.histogramdd(torch.stack([turns, survival], 1).cpu(), bins=[32, 32], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert stats.chisquare(table.flatten().numpy()).pvalue > ERROR_RATE


def test_rows_of_a_minibatch(draw):
    """The latents of one data point are uncorrelated with each other and with those of the next."""
    z = draw(17, n=20 * (N // 16)).reshape(-1, 20)
    covariance = z.T @ z / z.shape[0]
    for i in range(20):
        for j in range(i):
            _is_standard(covariance[i, j], 1 / z.shape[0])


def test_fresh_keys(device):
    """The noise of successive calls, as a training loop draws it."""
    torch.manual_seed(0)
    zeros = torch.zeros(64, device=device)
    z = torch.stack([aevb_ext.rsample(zeros, zeros) for _ in range(4096)]).double()
    assert stats.kstest(z.flatten().cpu().numpy(), "norm").pvalue > ERROR_RATE
    _is_standard((z[1:] * z[:-1]).mean(), 1 / z[1:].numel())
    _is_standard((z[:, 1:] * z[:, :-1]).mean(), 1 / z[:, 1:].numel())
    _is_standard(z[:, 0].mean(), 1 / 4096)


def test_the_bits_of_keys_are_fair(device):
    torch.manual_seed(0)
    seeds = torch.stack([aevb_ext.noise_key(device)[0] for _ in range(8192)]).cpu()
    if device.type == "cpu":  # on CUDA the seed is the generator's and the offset moves on
        for bit in range(63):
            _is_standard((seeds >> bit & 1).double().mean() - 0.5, 0.25 / 8192)


def test_scale_and_location(device):
    """z is N(mu, sigma^2) of each element, in every parameterisation."""
    n = 1 << 18
    mu, variance = torch.tensor([-3.0, 0.0, 20.0], device=device), torch.tensor([0.01, 1.0, 9.0], device=device)
    spreads = {"logvar": variance.log(), "log_std": variance.log() / 2, "std": variance.sqrt(), "var": variance}
    for i, (spread, s) in enumerate(spreads.items()):
        key = torch.tensor([23, i], device=device)
        z = aevb_ext.rsample(mu, s, n_samples=n, key=key, spread=spread).double()
        standard = ((z - mu) / variance.sqrt()).cpu().numpy()
        for column in standard.T:
            assert stats.kstest(column, "norm").pvalue > ERROR_RATE


def test_pathwise_gradients_are_unbiased(device):
    """Over many samples, d E[z^2] / d mu = 2 mu and d E[z^2] / d log sigma^2 = sigma^2, within their standard error."""
    n, m, variance = 1 << 18, 0.7, 1.69
    mu = torch.full((1,), m, device=device, dtype=torch.float64, requires_grad=True)
    logvar = torch.full((1,), math.log(variance), device=device, dtype=torch.float64, requires_grad=True)
    z = aevb_ext.rsample(mu, logvar, n_samples=n, key=torch.tensor([29, 0], device=device))
    d_mu, d_logvar = torch.autograd.grad(z.square().mean(), (mu, logvar))
    _is_standard(d_mu - 2 * m, 4 * variance / n)
    # d z^2 / d logvar = z sigma eps: its variance is m^2 sigma^2 + 2 sigma^4.
    _is_standard(d_logvar - variance, (m * m * variance + 2 * variance**2) / n)
