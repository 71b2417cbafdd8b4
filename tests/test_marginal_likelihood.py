"""Estimators of log p(x) against models where it is known, and against each other."""

import torch
from linear_gaussian import DIM, LATENT, LinearDecoder

from aevb_ext.estimators import marginal_likelihood, quadrature_log_likelihood
from aevb_ext.models import VAE


def linear(n=40):
    """A linear-Gaussian model without an encoder, its data and the data's exact log p(x)."""
    generator = torch.Generator().manual_seed(0)
    decoder = LinearDecoder(generator)
    x = torch.randn(n, DIM, dtype=torch.float64, generator=generator)
    return VAE(None, decoder, LATENT), x, decoder.evidence(x)


def test_quadrature_is_exact_where_the_evidence_is_known():
    model, x, evidence = linear(5)
    found = quadrature_log_likelihood(model, x)
    torch.testing.assert_close(found.values, evidence, rtol=0, atol=1e-6)
    assert (found.stderr < 1e-4).all()


def test_the_marginal_likelihood_of_a_linear_model():
    model, x, evidence = linear(200)
    found = marginal_likelihood(model, x)
    error = found.values - evidence
    # 1 / p(x) is estimated without bias: log p(x) with half the variance as its bias.
    assert abs((error - 0.5 * found.stderr.square()).mean()) < 5 * error.std() / 200**0.5
    assert error.std() < 0.25
