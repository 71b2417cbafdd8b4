"""DiagonalGaussianMixture against torch's mixture in float64, and as the ELBO's prior."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from aevb_ext.distributions import DiagonalGaussian, DiagonalGaussianMixture
from aevb_ext.nn import ELBO, GaussianPosterior

COMPONENTS, LATENT, BATCH = 3, 4, 5


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, COMPONENTS, LATENT, generator=generator, dtype=torch.float64)
    logits = torch.randn(COMPONENTS, generator=generator, dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in (mu, logvar, logits)]


def of_torch(mu, logvar, logits):
    normals = Independent(Normal(mu, (0.5 * logvar).exp().expand_as(mu)), 1)
    return MixtureSameFamily(Categorical(logits=torch.zeros(len(mu)) if logits is None else logits), normals)


@pytest.mark.parametrize("sample_shape", [(), (BATCH,), (2, BATCH)], ids=str)
def test_log_prob(sample_shape):
    mu, logvar, logits = parameters()
    z = torch.randn(*sample_shape, LATENT, dtype=torch.float64).requires_grad_()
    ours, theirs = (of(mu, logvar, logits).log_prob(z) for of in (DiagonalGaussianMixture, of_torch))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    leaves = [mu, logvar, logits, z]
    gradients = [torch.autograd.grad(value.sum(), leaves) for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("spread", ["log_std", "std", "var"])
def test_other_spreads(spread):
    mu, logvar, logits = parameters()
    s = {"log_std": logvar / 2, "std": (logvar / 2).exp(), "var": logvar.exp()}[spread]
    z = torch.randn(BATCH, LATENT, dtype=torch.float64)
    ours, expected = DiagonalGaussianMixture(mu, s, logits, spread=spread), of_torch(mu, logvar, logits)
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close([ours.mean, ours.variance], [expected.mean, expected.variance])


def test_equal_weights_and_one_spread():
    mu, logvar, _ = parameters()
    one, z = logvar[0, 0], torch.randn(BATCH, LATENT, dtype=torch.float64)
    ours, expected = DiagonalGaussianMixture(mu, one), of_torch(mu, one, None)
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close([ours.mean, ours.variance], [expected.mean, expected.variance])


def test_half_precision():
    given = [t.detach().bfloat16() for t in parameters()]
    p, wide = DiagonalGaussianMixture(*given), of_torch(*(t.double() for t in given))
    z = torch.randn(BATCH, LATENT)
    assert p.sample((2,)).dtype == torch.bfloat16
    for ours, expected in (
        (p.log_prob(z), wide.log_prob(z.double())),
        (p.mean, wide.mean),
        (p.variance, wide.variance),
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=2e-6)


def test_samples_are_of_the_mixture():
    """Mean and variance of each dimension, and how often the nearest components come."""
    n = 40_000
    mu = 20 * torch.eye(COMPONENTS, LATENT, dtype=torch.float64)
    logvar = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    p = DiagonalGaussianMixture(mu, logvar, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log())
    z = p.sample((n // 4, 4), generator=torch.Generator().manual_seed(0)).reshape(n, LATENT)
    assert z.shape == (n, LATENT) and not z.requires_grad
    counts = torch.cdist(z, mu).argmin(1).bincount() / n
    # Six standard errors: at a rate of 2e-9 each.
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.5, 0.3]), rtol=0, atol=6 * 0.5 / math.sqrt(n))
    errors = (z.mean(0) - p.mean).abs() / (p.variance / n).sqrt()
    assert errors.max() < 6
    kurtosis = ((z - p.mean) ** 4).mean(0) / p.variance**2
    torch.testing.assert_close(
        z.var(0) / p.variance, torch.ones_like(p.mean), rtol=0, atol=6 * (kurtosis / n).max().sqrt().item()
    )
    assert p.sample().shape == (LATENT,) and p.sample((0, 2)).shape == (0, 2, LATENT)


def decoder(x, z):
    return -0.5 * (x - z).square().sum(-1)


@pytest.mark.parametrize("options", [{}, {"n_samples": 3}, {"n_samples": 4, "block": 2}], ids=str)
@pytest.mark.parametrize("importance_weighted", [False, True])
def test_the_elbo_with_it_as_prior(options, importance_weighted):
    """As with torch's mixture, whose densities and gradients autograd makes."""
    form = {"importance_weighted": True} if importance_weighted else {"gradient": "stl"}
    elbo, key = ELBO(**form, **options), torch.tensor([1, 2])
    x = torch.randn(BATCH, LATENT, dtype=torch.float64)
    mu, logvar = (torch.randn(BATCH, LATENT, dtype=torch.float64).requires_grad_() for _ in range(2))
    given = parameters()
    terms, expected = (
        elbo(x, (mu, logvar), decoder, prior=of(*given), key=key) for of in (DiagonalGaussianMixture, of_torch)
    )
    torch.testing.assert_close(terms, expected)
    leaves = [mu, logvar, *given]
    torch.testing.assert_close(torch.autograd.grad(terms.loss, leaves), torch.autograd.grad(expected.loss, leaves))


def test_a_vamp_prior_learns():
    """Its components are the posteriors of learned inputs, which get a gradient through the encoder."""
    torch.manual_seed(0)
    posterior = GaussianPosterior(nn.Linear(6, 2 * LATENT))
    inputs = nn.Parameter(torch.rand(COMPONENTS, 6))
    x, network = torch.rand(BATCH, 6), nn.Linear(LATENT, 6)
    q = posterior(inputs)
    terms = ELBO(gradient="stl")(
        x, posterior(x), lambda x, z: -(x - network(z)).square().sum(-1), prior=DiagonalGaussianMixture(q.mu, q.logvar)
    )
    terms.loss.backward()
    assert inputs.grad.abs().min() > 0


def test_there_is_no_kl_in_closed_form():
    mu = torch.zeros(BATCH, LATENT)
    with pytest.raises(NotImplementedError, match=r'DiagonalGaussianMixture.*gradient="stl"'):
        ELBO()(mu, (mu, mu), decoder, prior=DiagonalGaussianMixture(mu, mu))


class TestMistakes:
    MU = torch.zeros(COMPONENTS, LATENT)

    @pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4)], ids=str)
    def test_no_components(self, shape):
        with pytest.raises(ValueError, match=r"mu must be the means of components, \[K, D\], got shape"):
            DiagonalGaussianMixture(torch.zeros(shape), torch.zeros(()))

    def test_other_weights(self):
        with pytest.raises(ValueError, match=r"logits must have shape \[3\], got \[4\]"):
            DiagonalGaussianMixture(self.MU, self.MU, torch.zeros(4))

    def test_other_spread(self):
        with pytest.raises(ValueError, match="logvar has shape"):
            DiagonalGaussianMixture(self.MU, torch.zeros(2, LATENT))
        with pytest.raises(ValueError, match="spread must be"):
            DiagonalGaussianMixture(self.MU, self.MU, spread="sigma")

    def test_nan_is_told_of_if_asked(self):
        z = torch.full((LATENT,), math.nan)
        assert DiagonalGaussianMixture(self.MU, self.MU).log_prob(z).isnan()
        with pytest.raises(ValueError, match="Expected value argument"):
            DiagonalGaussianMixture(self.MU, self.MU, validate_args=True).log_prob(z)

    def test_another_event(self):
        q = DiagonalGaussian(torch.zeros(BATCH, 2), torch.zeros(BATCH, 2))
        with pytest.raises(ValueError, match="the prior's event_shape must be the posterior's"):
            ELBO(gradient="stl")(torch.zeros(BATCH, 2), q, decoder, prior=DiagonalGaussianMixture(self.MU, self.MU))
