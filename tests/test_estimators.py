"""The estimators of the bound against models whose evidence is known exactly."""

import pytest
import torch
from linear_gaussian import DIM, LATENT, LinearDecoder
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

import aevb_ext
from aevb_ext.estimators import ESTIMATORS, bound_a, bound_b, bound_values, evaluate_bound
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.noise import keys_at


class Encoder(nn.Module):
    """The exact posterior, moved by ``shift`` and widened by ``widen`` in log sigma^2."""

    def __init__(self, decoder, shift=0.0, widen=0.0):
        super().__init__()
        self.exact, self.shift, self.widen = decoder.posterior, shift, widen

    def forward(self, x):
        mu, logvar = self.exact(x)
        return torch.cat([mu + self.shift, logvar + self.widen], -1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_estimator_a_at_the_exact_posterior_is_the_evidence(generator):
    # log p(x, z) - log q(z | x) = log p(x) whatever z: no Monte Carlo error is left.
    decoder = LinearDecoder(generator)
    x = torch.randn(20, DIM, dtype=torch.float64, generator=generator)
    values = bound_a(VAE(Encoder(decoder), decoder, LATENT), x, 2, generator)
    torch.testing.assert_close(values, decoder.evidence(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bound", [bound_a, bound_b])
def test_the_gap_to_the_evidence_is_the_divergence(bound, generator):
    # E[bound] = log p(x) - KL(q(z | x) || p(z | x)), section 2.2.
    decoder = LinearDecoder(generator)
    encoder = Encoder(decoder, shift=0.2, widen=0.5)
    x, n_samples = torch.randn(4, DIM, dtype=torch.float64, generator=generator), 20_000
    (mu, logvar), (exact_mu, exact_logvar) = encoder(x).chunk(2, -1), decoder.posterior(x)
    q, p = Normal(mu, (0.5 * logvar).exp()), Normal(exact_mu, (0.5 * exact_logvar).exp())
    expected = (decoder.evidence(x) - kl_divergence(q, p).sum(1)).mean()
    model = VAE(encoder, decoder, LATENT)
    values = torch.stack([bound(model, x, n_samples // 20, generator).mean() for _ in range(20)])
    # Student's t with 19 degrees of freedom: beyond 7 at a rate of 1e-6.
    assert abs(values.mean() - expected) < 7 * values.std() / 20**0.5


@pytest.mark.parametrize("n_samples", [1, 3])
def test_estimators_are_their_equations(n_samples):
    model = mlp_vae(DIM, latent=LATENT, hidden=6, generator=torch.Generator().manual_seed(1)).double()
    x = torch.randint(2, (8, DIM)).double()
    mu, logvar = model.posterior(x)
    z = aevb_ext.rsample(mu, logvar, n_samples=n_samples, generator=torch.Generator().manual_seed(2))
    q, prior = Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    log_px = Independent(Bernoulli(logits=model.decoder.net(z)), 1).log_prob(x)
    a = (log_px + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)).mean(0)
    b = log_px.mean(0) - kl_divergence(q, prior).sum(-1)
    torch.testing.assert_close(bound_a(model, x, n_samples, torch.Generator().manual_seed(2)), a, rtol=1e-11, atol=0)
    torch.testing.assert_close(bound_b(model, x, n_samples, torch.Generator().manual_seed(2)), b, rtol=1e-11, atol=0)


def trained_like(generator):
    """A model whose posterior depends on x and differs from the prior, as after training."""
    model = mlp_vae(64, latent=LATENT, hidden=20, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(30)
    return model


def test_estimators_agree(generator):
    model, x = trained_like(generator), torch.rand(2000, 64, generator=generator)
    a = evaluate_bound(model, x, estimator="a", n_samples=4, seed=1)
    b = evaluate_bound(model, x, estimator="b", n_samples=4, seed=1)
    # The same noise in both, so that what they have in common cancels and the comparison is a sharp one.
    seeds = [torch.Generator().manual_seed(7) for _ in range(2)]
    difference = (bound_a(model, x, 4, seeds[0]) - bound_b(model, x, 4, seeds[1])).double()
    assert abs(difference.mean()) < 5 * difference.std() / len(x) ** 0.5
    assert abs(a.mean - b.mean) < 5 * difference.std() / len(x) ** 0.5


@pytest.mark.parametrize("bound", [bound_a, bound_b])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradient_of_the_bound(bound, likelihood):
    model = mlp_vae(4, latent=2, hidden=3, likelihood=likelihood, generator=torch.Generator().manual_seed(1)).double()
    names, x = [name for name, _ in model.named_parameters()], torch.rand(3, 4, dtype=torch.float64)

    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return bound(self.model, x, 2, torch.Generator().manual_seed(5))

    def of_parameters(*values):
        named = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Bound(), named, ())

    assert torch.autograd.gradcheck(of_parameters, [p.detach().requires_grad_() for p in model.parameters()])


def test_evaluation_depends_on_its_seed_alone(generator):
    model, x = trained_like(generator), torch.rand(50, 64, generator=generator)
    first = evaluate_bound(model, x, seed=3)
    torch.manual_seed(99)
    assert evaluate_bound(model, x, seed=3) == first
    assert evaluate_bound(model, x, seed=4) != first


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_many_samples_are_evaluated_a_few_at_a_time(estimator, generator):
    """All at once gives the same, and memory does not grow with L: the decoder never sees more rows than for few."""
    model, x, rows = trained_like(generator).double(), torch.rand(3, 64, dtype=torch.float64, generator=generator), []
    model.decoder.net.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    values = bound_values(model, x, estimator=estimator, n_samples=12_000, seed=3)
    assert max(rows) <= 5000 and sum(rows) == 3 * 12_000
    key = keys_at(3, "evaluation", torch.arange(3))
    with torch.no_grad():
        at_once = ESTIMATORS[estimator](model, x, 12_000, key=key).bound
    torch.testing.assert_close(values, at_once, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_blocks_change_no_gradient(estimator, generator):
    model, x = trained_like(generator).double(), torch.rand(5, 64, dtype=torch.float64, generator=generator)
    key, found = torch.tensor([1, 2]), []
    for block in (None, 3):
        terms = ESTIMATORS[estimator](model, x, 7, block=block, key=key)
        # The divergence and the reconstruction with other weights than the bound has them.
        total = sum((i + 1) * t.sum() for i, t in enumerate(terms))
        found.append([*terms, *torch.autograd.grad(total, list(model.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_the_importance_weighted_bound_comes_to_the_evidence(generator):
    # log p(x) - E[bound] = Var(w) / (2 k E[w]^2) to first order (Burda et al. 2016, theorem 1: it never exceeds it).
    decoder = LinearDecoder(generator)
    x = torch.randn(40, DIM, dtype=torch.float64, generator=generator)
    exact = evaluate_bound(VAE(Encoder(decoder), decoder, LATENT), x, estimator="iwae", n_samples=2)
    assert exact.mean == pytest.approx(decoder.evidence(x).mean().item(), rel=1e-10)
    model = VAE(Encoder(decoder, shift=0.2, widen=0.5), decoder, LATENT)
    gaps = []
    for k in (1, 10, 5000):
        difference = decoder.evidence(x) - bound_values(model, x, estimator="iwae", n_samples=k)
        gaps.append((difference.mean().item(), difference.std().item() / 40**0.5))
    elbo = decoder.evidence(x) - bound_values(model, x, estimator="b", n_samples=1000)
    assert abs(gaps[0][0] - elbo.mean()) < 6 * gaps[0][1]
    assert gaps[0][0] > 2 * gaps[1][0] > 20 * abs(gaps[2][0])
    # Student's t with 39 degrees of freedom: beyond 6 at a rate of 1e-6.
    assert abs(gaps[2][0]) < 6 * gaps[2][1] + 1e-3


def test_standard_error_is_that_of_the_mean_over_data(generator):
    # Estimator A at the exact posterior has no Monte Carlo error: mean and spread are those of the evidence.
    decoder = LinearDecoder(generator)
    x = torch.randn(3000, DIM, dtype=torch.float64, generator=generator)
    score, evidence = evaluate_bound(VAE(Encoder(decoder), decoder, LATENT), x, estimator="a"), decoder.evidence(x)
    assert score.mean == pytest.approx(evidence.mean().item(), rel=1e-10)
    assert score.stderr == pytest.approx(evidence.std().item() / 3000**0.5, rel=1e-10)
    assert score.count == 3000


def test_bad_arguments_are_named(generator):
    model, x = trained_like(generator), torch.rand(5, 64)
    with pytest.raises(ValueError, match="estimator"):
        evaluate_bound(model, x, estimator="c")
    with pytest.raises(ValueError, match="n_samples"):
        evaluate_bound(model, x, n_samples=0)
    with pytest.raises(ValueError, match="x must have"):
        evaluate_bound(model, x[:0])
