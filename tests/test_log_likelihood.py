"""Estimators of log p(x) against models where it is known, and against each other."""

import math
import warnings

import pytest
import torch
from linear_gaussian import DIM, LATENT, LinearDecoder
from torch import nn

from aevb_ext.data import Data
from aevb_ext.estimators import (
    UntrustedEstimate,
    annealed_importance_sampling,
    bound_values,
    evaluate_bound,
    importance_weighted_log_likelihood,
    marginal_likelihood,
    quadrature_log_likelihood,
)
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.nn.stream import Totals
from aevb_ext.train import fit


def short_annealing(model, x, **options):
    return annealed_importance_sampling(model, x, **{"n_temperatures": 25} | options)


def weighted(model, x, **options):
    return importance_weighted_log_likelihood(model, x, **{"n_samples": 300} | options)


SAMPLED = [marginal_likelihood, short_annealing, weighted]


class Encoder(nn.Module):
    """The exact posterior of a linear decoder, wider than it is."""

    def __init__(self, decoder):
        super().__init__()
        self.exact = decoder.posterior

    def forward(self, x):
        mu, logvar = self.exact(x)
        return mu, logvar + 0.4


def linear(n, spread=0.7, encodes=True):
    """A linear-Gaussian model, data and its exact log p(x)."""
    generator = torch.Generator().manual_seed(0)
    decoder = LinearDecoder(generator, spread)
    x = torch.randn(n, DIM, dtype=torch.float64, generator=generator)
    return VAE(Encoder(decoder) if encodes else None, decoder, LATENT), x, decoder.evidence(x)


@pytest.fixture(scope="module")
def trained():
    """A nonlinear model with two latent dimensions, trained on data of such a model, and 40 data points."""
    generator = torch.Generator().manual_seed(0)
    source = mlp_vae(40, latent=2, hidden=30, generator=generator)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(100)
        z = torch.randn(1040, 2, generator=generator)
        x = source.decoder.mean(z).bernoulli(generator=generator)
    model = mlp_vae(40, latent=2, hidden=30, generator=generator)
    fit(model, Data("bits", x[40:], x[:40]), samples_seen=40_000, lr=0.05, progress=False)
    return model, x[:40]


@pytest.mark.parametrize("spread", [0.7, 0.05])
def test_quadrature_is_exact_where_the_evidence_is_known(spread):
    """Also where posteriors are a tenth of the first cells wide."""
    model, x, evidence = linear(3, spread)
    found = quadrature_log_likelihood(model, x)
    torch.testing.assert_close(found.values, evidence, rtol=0, atol=1e-6 * evidence.abs().max().item())
    assert (found.stderr < 1e-4).all()


def test_quadrature_is_the_integral(trained):
    """Of all that there is, at a spacing of 1/25, for a posterior of any shape."""
    model, x = trained[0].double(), trained[1][:4].double()
    try:
        line = torch.arange(-6, 6, 0.04, dtype=torch.float64)
        z = torch.cartesian_prod(line, line)
        with torch.no_grad():
            log_likelihood = model.log_likelihood(x, z.unsqueeze(1).expand(-1, 4, -1))
        log_prior = -0.5 * z.square().sum(1, keepdim=True) - math.log(2 * math.pi)
        expected = (log_likelihood + log_prior).logsumexp(0) + 2 * math.log(0.04)
        torch.testing.assert_close(quadrature_log_likelihood(model, x).values, expected, rtol=0, atol=1e-5)
    finally:
        trained[0].float()


@pytest.mark.parametrize("estimate", SAMPLED)
def test_estimates_are_the_evidence_of_a_linear_model(estimate):
    n = 200
    model, x, evidence = linear(n, encodes=estimate is weighted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate(model, x)
    # Without bias are p(x) of importance weights, and 1 / p(x) of appendix D. Beyond 5 standard errors: 6e-7 of a
    # normal; the ratios are close to one.
    sign = -1 if estimate is marginal_likelihood else 1
    ratio = (sign * (found.values - evidence)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / n**0.5
    # A squared error has, over its expectation, variance 2 where errors are normal, and more where they are not.
    spread = (found.values - evidence).square().mean() / found.stderr.square().mean()
    assert 0.6 < spread < 1.7
    assert found.stderr.square().mean().sqrt() < 0.3


@pytest.mark.parametrize("estimate", SAMPLED)
def test_estimates_of_a_trained_model_are_its_integral(estimate, trained):
    model, x = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate(model, x)
    errors = found.values - quadrature_log_likelihood(model, x).values
    assert errors.abs().max() < 1
    assert abs(errors.mean()) < 6 * errors.std() / len(x) ** 0.5 + found.stderr.square().mean()


@pytest.mark.parametrize("estimate", [marginal_likelihood, short_annealing])
def test_chains_may_start_from_the_encoders_posterior(estimate, trained):
    model, x = trained
    exact = quadrature_log_likelihood(model, x).values
    found = estimate(model, x, start="posterior", seed=1)
    errors = found.values - exact
    assert errors.abs().max() < 1
    assert abs(errors.mean()) < 6 * errors.std() / len(x) ** 0.5 + found.stderr.square().mean()


@pytest.mark.parametrize("estimate", SAMPLED)
def test_a_data_point_has_its_own_noise(estimate):
    model, x, _ = linear(9)
    told = []
    whole, again, other = (estimate(model, x, n_samples=20, seed=s, progress=told.append) for s in (3, 3, 4))
    part = estimate(model, x, n_samples=20, seed=3, first=4, count=3)
    torch.testing.assert_close(part.values, whole.values[4:7], rtol=1e-9, atol=1e-9)
    assert torch.equal(whole.values, again.values) and not torch.isclose(whole.values, other.values).any()
    assert told[-1] == 9


def test_importance_weights_are_those_of_the_bound():
    model, x, _ = linear(7)
    found = importance_weighted_log_likelihood(model, x, n_samples=6_000, seed=2)
    expected = bound_values(model, x, estimator="iwae", n_samples=6_000, seed=2)
    torch.testing.assert_close(found.values, expected, rtol=1e-11, atol=0)


def test_the_effective_sample_size_of_blocks_is_that_of_all():
    log_p, log_q = torch.randn(2, 60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    totals = Totals(weighted=True)
    for block in (slice(0, 7), slice(7, 40), slice(40, 60)):
        totals.add((log_p[block] - 1e4, log_q[block]))
    weights = (log_p - log_q).exp()
    torch.testing.assert_close(totals.effective_sample_size, weights.sum(0).square() / weights.square().sum(0))


def test_the_errors_over_data_and_over_noise():
    model, x, _ = linear(500)
    several = [evaluate_bound(model, x, seed=seed, repeats=4) for seed in range(40)]
    # 40 means spread as each says: the standard deviation of 40 normals is 11 % off, at 5 of these 57 %.
    means = torch.tensor([bound.mean for bound in several])
    assert 0.43 < means.std().item() / several[0].noise_stderr < 1.57
    # Estimator A would have no noise at the exact posterior, and all of its error is the data's.
    decoder = model.decoder
    exact = evaluate_bound(VAE(decoder.posterior, decoder, LATENT), x, estimator="a", repeats=3)
    assert exact.noise_stderr < 1e-12
    assert exact.stderr == pytest.approx(decoder.evidence(x).std().item() / 500**0.5, rel=1e-9)
    assert evaluate_bound(model, x, seed=1).noise_stderr is None


def test_what_is_not_to_be_trusted_is_said():
    generator = torch.Generator().manual_seed(0)
    deep = mlp_vae(20, latent=6, hidden=8, generator=generator)
    x = torch.rand(5, 20, generator=generator)
    with pytest.warns(UntrustedEstimate, match=r"up to about 5 latent dimensions, and the model has 6"):
        marginal_likelihood(deep, x)
    narrow, x, _ = linear(30, spread=0.02, encodes=False)
    with (
        pytest.warns(UntrustedEstimate, match=r"effective sample size below 1.6 of 16 chains"),
        pytest.warns(UntrustedEstimate, match=r"the chains accept 0% of their proposals"),
    ):
        annealed_importance_sampling(narrow, x, n_temperatures=3)
    wide = VAE(lambda x: (x.new_zeros(len(x), LATENT), x.new_zeros(len(x), LATENT)), narrow.decoder, LATENT)
    with pytest.warns(UntrustedEstimate, match=r"effective sample size below 5 of 100 samples"):
        importance_weighted_log_likelihood(wide, x, n_samples=100)


@pytest.mark.parametrize(
    "estimate,options,message",
    [
        (quadrature_log_likelihood, {}, "latent must be at most 3 for quadrature, got a model with latent 4"),
        (marginal_likelihood, {"n_samples": 11}, "n_samples must be at least 12 to fit a Gaussian of 4 latent"),
        (marginal_likelihood, {"start": "x"}, "start must be one of prior, posterior, got 'x'"),
        (marginal_likelihood, {"leapfrog_steps": 0}, "n_steps must be at least 1, got 0"),
        (marginal_likelihood, {"count": 0}, "x must have at least one data point"),
        (annealed_importance_sampling, {"n_temperatures": 0}, "n_temperatures must be at least 1, got 0"),
        (annealed_importance_sampling, {"n_samples": 0}, "n_samples must be at least 1, got 0"),
        (importance_weighted_log_likelihood, {"n_samples": 0}, "n_samples must be at least 1, got 0"),
        (evaluate_bound, {"repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(estimate, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(mlp_vae(20, latent=4, hidden=8), torch.rand(5, 20), **options)
