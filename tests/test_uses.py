"""The uses of a trained model: the methods of VAE."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import DIM, LATENT, LinearDecoder
from torch import nn

import aevb_ext
from aevb_ext import data
from aevb_ext.estimators import bound_values
from aevb_ext.models import VAE, GaussianDecoder, mlp_vae
from aevb_ext.noise import keys_at, standard_normal

KEY = torch.tensor([7, 1312])


class Pixels(nn.Module):
    """p(x | z) whose mean is z itself."""

    def log_prob(self, x, z, x_scale=1.0):
        raise NotImplementedError

    def mean(self, z):
        return z


class Halves(nn.Module):
    """q(z | x) whose parameters are the two halves of x."""

    def forward(self, x):
        return x


@pytest.fixture
def identity():
    """x packs (mu, logvar) of its posterior, and E[x | z] is z: what comes out is what was done to z."""
    return VAE(Halves(), Pixels(), LATENT)


def model(likelihood="bernoulli", latent=3, seed=0):
    """Float64, with parameters large enough that z matters."""
    found = mlp_vae(
        8, latent=latent, hidden=16, likelihood=likelihood, generator=torch.Generator().manual_seed(seed)
    ).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(60)
    return found


def some_x(n=6, dim=8, seed=1):
    return torch.rand(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_generation_decodes_the_noise_of_the_key():
    vae = model()
    x = vae.generate(9, key=KEY)
    z = standard_normal(KEY, (9, 3), torch.float64)
    torch.testing.assert_close(x, vae.decoder.mean(z).detach(), rtol=1e-12, atol=0)
    assert not x.requires_grad


def test_generation_with_a_key_for_each_does_not_depend_on_how_many():
    vae, keys = model(), keys_at(0, "generation", torch.arange(40))
    for sampled in (False, True):
        every = vae.generate(40, sampled=sampled, key=keys)
        torch.testing.assert_close(vae.generate(3, sampled=sampled, key=keys[20:23]), every[20:23], rtol=1e-12, atol=0)


def test_a_generator_gives_the_same_again_and_then_another():
    vae, generator = model(), torch.Generator()
    first, second, again = (
        vae.generate(5, sampled=True, generator=g)
        for g in (generator.manual_seed(3), generator, torch.Generator().manual_seed(3))
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_sampled_bits_have_the_moments_of_the_decoder():
    vae, n = model(), 4000
    # A key for each: the noise of its pixels would begin with that of its z, were it the same key's.
    keys = keys_at(0, "generation", torch.arange(n))
    p, x = vae.generate(n, key=keys), vae.generate(n, sampled=True, key=keys)
    assert x.unique().tolist() == [0, 1]
    # With the same key they are of the same z. 8 pixels, each a sum of n; beyond 6 at a rate of 2e-9 each.
    assert ((x - p).sum(0).abs() < 6 * (p * (1 - p)).sum(0).sqrt()).all()
    z = standard_normal(keys, (3,), torch.float64)
    # What is drawn for x has nothing to do with what was drawn for z.
    score = z.T @ (x - p) / (z.square().T @ (p * (1 - p))).sqrt()
    assert (score.abs() < 6).all()


def test_sampled_numbers_have_the_moments_of_the_decoder():
    vae, n = model("gaussian"), 4000
    q = vae.decoder(standard_normal(KEY, (n, 3), torch.float64))
    noise = (vae.generate(n, sampled=True, key=KEY) - q.mean) / q.stddev
    # Means and mean squares of n standard normals (variances 1 and 2), each pixel's; beyond 6 at a rate of 2e-9.
    assert (noise.mean(0).abs() < 6 / n**0.5).all()
    assert ((noise.square().mean(0) - 1).abs() < 6 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("n_samples", [None, 3])
def test_augmentation_at_temperature_0_is_reconstruction(n_samples):
    vae, x = model(), some_x()
    found = vae.augment(x, n_samples=n_samples, temperature=0)
    assert found.shape == ((6, 8) if n_samples is None else (3, 6, 8)) and not found.requires_grad
    torch.testing.assert_close(found, vae.reconstruct(x).detach().expand_as(found), rtol=1e-12, atol=0)


def test_augmentation_at_temperature_1_decodes_the_posterior():
    vae, x = model(), some_x()
    z = aevb_ext.rsample(*vae.posterior(x), n_samples=5, key=KEY)
    expected = vae.decoder.mean(z).detach()
    torch.testing.assert_close(vae.augment(x, n_samples=5, key=KEY), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_is_that_of_the_posteriors_spread(identity, temperature):
    x = torch.randn(4, 2 * LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mu, logvar = x.chunk(2, 1)
    n = 20_000
    z = identity.augment(x, n_samples=n, temperature=temperature, key=KEY)
    std = temperature * (logvar / 2).exp()
    # 12 means and 12 variances; beyond 6 at a rate of 2e-9 each.
    assert ((z.mean(0) - mu).abs() < 6 * std / n**0.5).all()
    assert ((z.var(0) / std.square() - 1).abs() < 6 * (2 / n) ** 0.5).all()


class Watched:
    """Rows that remember how many were asked for at a time."""

    resident, draws, device = False, False, torch.device("cpu")

    def __init__(self, tensor):
        self.tensor, self.event_shape, self.dtype, self.most = tensor, tensor.shape[1:], tensor.dtype, 0

    def __len__(self):
        return len(self.tensor)

    def gather(self, index, keys=None):
        self.most = max(self.most, len(index))
        return self.tensor[index]

    def to(self, device):
        return self


def test_encoding_in_batches_is_encoding_at_once(tmp_path):
    vae, x = model(), some_x(2500)
    expected = [half.detach() for half in vae.posterior(x)]
    np.save(tmp_path / "x.npy", x.numpy())
    stored = data.load(tmp_path / "x.npy", resident_bytes=0, test_fraction=1e-9).train
    watched = Watched(x)
    for rows in (x, watched):
        for half, right in zip(vae.encode(rows), expected, strict=True):
            torch.testing.assert_close(half, right, rtol=1e-12, atol=1e-12)
            assert not half.requires_grad
    # Whatever the size of the data, so many are in memory.
    assert watched.most <= 1000
    index = torch.arange(len(stored))
    mu = vae.posterior(stored.gather(index))[0].detach()
    torch.testing.assert_close(vae.encode(stored)[0], mu, rtol=1e-12, atol=1e-12)


def test_encoding_of_rows_that_draw_follows_the_seed():
    vae = model().float()
    rows = data.BinarizedRows(some_x(20).float())
    one, other, again = (vae.encode(rows, seed=seed)[0] for seed in (0, 1, 0))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_interpolation_goes_straight_from_one_mean_to_the_other(identity):
    x, y = torch.randn(2, 5, 2 * LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    way = identity.interpolate(x, y, 4)
    begin, end = x[:, :LATENT], y[:, :LATENT]
    assert way.shape == (4, 5, LATENT)
    assert torch.equal(way[0], begin) and torch.equal(way[-1], end)
    torch.testing.assert_close(way[1], (2 * begin + end) / 3, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(identity.interpolate(y, x, 4).flip(0), way, rtol=1e-13, atol=1e-13)


def test_interpolation_ends_at_the_reconstructions():
    vae, x, y = model(), some_x(seed=1), some_x(seed=2)
    way = vae.interpolate(x, y, 3)
    torch.testing.assert_close(way[[0, -1]], torch.stack([vae.reconstruct(x), vae.reconstruct(y)]).detach())


def test_the_manifold_is_the_quantiles_of_the_prior(identity):
    # Of the middles of quarters of the normal distribution, as tables have them.
    a, b = 1.1503493803760079, 0.3186393639643752
    grid = identity.manifold(4, (2, 0)).reshape(4, 4, LATENT)
    ticks = torch.tensor([-a, -b, b, a])
    # dims[0] grows to the right, dims[1] upwards.
    torch.testing.assert_close(grid[..., 2], ticks.expand(4, 4))
    torch.testing.assert_close(grid[..., 0], ticks.flip(0)[:, None].expand(4, 4))
    assert (grid[..., 1] == 0).all()
    plane = VAE(Halves(), Pixels(), 2)
    assert torch.equal(plane.manifold(4), plane.manifold(4, (0, 1)))


class Encoder(nn.Module):
    """The exact posterior of the linear Gaussian model."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, x):
        return torch.cat(self.decoder.posterior(x), -1)


def test_anomaly_scores_are_minus_the_evidence_where_the_bound_is():
    decoder = LinearDecoder(torch.Generator().manual_seed(0))
    vae = VAE(Encoder(decoder), decoder, LATENT)
    x = torch.randn(250, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[123] *= 20
    for options in ({"estimator": "a"}, {"estimator": "iwae", "n_samples": 70}):
        scores = vae.anomaly_scores(x, **options)
        torch.testing.assert_close(scores, -decoder.evidence(x), rtol=1e-10, atol=1e-10)
        assert scores.argmax() == 123


def test_anomaly_scores_are_of_the_noise_of_each_data_point():
    vae, x = model(), some_x(250)
    for options in ({}, {"estimator": "iwae", "n_samples": 60, "seed": 5}):
        scores = vae.anomaly_scores(x, **options)
        torch.testing.assert_close(scores, -bound_values(vae, x, **options), rtol=1e-11, atol=0)
        torch.testing.assert_close(vae.anomaly_scores(x[:120], **options), scores[:120], rtol=1e-11, atol=0)


def test_a_gaussian_decoder_of_ones_own_generates():
    vae = VAE(nn.Linear(4, 4), GaussianDecoder(nn.Linear(2, 4), logvar=0.0), 2)
    assert vae.generate(3, sampled=True).shape == (3, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda vae: vae.generate(0), "n must be an integer, at least 1, got 0"),
        (lambda vae: vae.generate(2.0), "n must be an integer"),
        (lambda vae: vae.generate(3, key=torch.zeros(2, 2, dtype=torch.int64)), "key"),
        (lambda vae: vae.augment(some_x(), temperature=-1), "temperature must be a finite number, at least 0, got -1"),
        (lambda vae: vae.augment(some_x(), temperature=math.nan), "temperature must be"),
        (lambda vae: vae.augment(some_x(), n_samples=0), "n_samples"),
        (lambda vae: vae.encode(some_x(0)), "at least one data point"),
        (lambda vae: vae.interpolate(some_x(), some_x(), 1), "steps must be an integer, at least 2, got 1"),
        (lambda vae: vae.interpolate(some_x(2), some_x(3)), r"one shape, got \[2, 8\] and \[3, 8\]"),
        (lambda vae: vae.manifold(), r"z has 3: say which two \(from 0 to 2\)"),
        (lambda vae: vae.manifold(4, (1, 1)), r"dims must be two different dimensions from 0 to 2, got \(1, 1\)"),
        (lambda vae: vae.manifold(4, (0, 3)), "dims must be"),
        (lambda vae: vae.manifold(0, (0, 1)), "side must be an integer, at least 1"),
        (lambda vae: vae.anomaly_scores(some_x(), estimator="c"), "estimator must be one of"),
        (lambda vae: vae.anomaly_scores(some_x(0)), "at least one data point"),
        (lambda vae: model(latent=1).manifold(), "z has one"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(model())


def test_a_model_that_does_not_know_its_latent_yet_says_so():
    vae = VAE(nn.Linear(8, 4), nn.Linear(2, 8))
    with pytest.raises(RuntimeError, match="latent is not known yet"):
        vae.generate(1)
    vae.encode(some_x().float())
    assert vae.generate(1).shape == (1, 8)
